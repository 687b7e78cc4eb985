//! The kernel's faults where pages move (`UFFDIO_MOVE`) and are swapped, by its version.
//!
//! A distribution may have brought a fix to a kernel whose version does not tell: then nobody knows.

use std::fmt;

/// A version of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32, u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(major, minor, 0) => write!(f, "{major}.{minor}"),
            Self(major, minor, patch) => write!(f, "{major}.{minor}.{patch}"),
        }
    }
}

/// A fix that moving pages needs where the host swaps.
struct Fix {
    /// The commit that made it in the mainline.
    commit: &'static str,
    /// The first version of each branch that has it, ascending; the last is the mainline's. Branches that are not here
    /// never got it.
    fixed_since: &'static [Version],
}

const FIXES: [Fix; 2] = [
    // "mm: fix kernel BUG when userfaultfd_move encounters swapcache"
    Fix { commit: "c50f8e60", fixed_since: &[Version(6, 12, 20), Version(6, 13, 8), Version(6, 14, 0)] },
    // "mm: userfaultfd: fix race of userfaultfd_move and swap cache"
    Fix { commit: "0ea148a7", fixed_since: &[Version(6, 12, 37), Version(6, 15, 5), Version(6, 16, 0)] },
];

impl Fix {
    fn is_in(&self, version: Version) -> bool {
        let is_later = self.fixed_since.last().is_some_and(|mainline| version >= *mainline);
        let is_same_branch = |since: &Version| (since.0, since.1) == (version.0, version.1);
        is_later || self.fixed_since.iter().any(|since| is_same_branch(since) && version >= *since)
    }

    /// Whether a candidate of this version has it for sure: one of the version that has it first may be older.
    fn is_in_candidate(&self, version: Version) -> bool {
        self.fixed_since.last().is_some_and(|mainline| version > *mainline)
    }
}

/// The first versions that have all of them, for people.
pub(super) fn good_versions() -> String {
    let all = FIXES.iter().flat_map(|fix| fix.fixed_since).copied();
    let mut good: Vec<Version> = all.filter(|version| FIXES.iter().all(|fix| fix.is_in(*version))).collect();
    good.sort_unstable();
    let good: Vec<String> = good.iter().map(Version::to_string).collect();
    good.join(", ")
}

/// The host's kernel.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// `uname -r`.
    pub(super) release: String,
    version: Option<Version>,
    says: Says,
}

/// The patches that a kernel has by its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    /// All: it is a release, and was not patched without a change of its version.
    All,
    /// Not which candidate has what.
    Candidate,
    /// That there are more than those of the version.
    More,
}

/// The fixes that a kernel has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fixes {
    /// All.
    All,
    /// By its version it lacks these commits.
    Lacks(Vec<&'static str>),
    /// Its version does not tell whether it has these.
    Unknown(Vec<&'static str>),
}

impl Says {
    /// By what follows a version.
    fn of(rest: &str) -> Self {
        if rest.starts_with("-rc") || rest.starts_with("~rc") { Self::Candidate } else { Self::All }
    }
}

impl Kernel {
    /// A kernel of which `uname` says this release and this version.
    pub(super) fn new(release: &str, build: &str) -> Self {
        let (version, says) = told(release, build).unzip();
        Self { release: release.to_owned(), version, says: says.unwrap_or(Says::More) }
    }

    /// The fixes that it has.
    pub(super) fn fixes(&self) -> Fixes {
        let has = |fix: &Fix| match (self.version, self.says) {
            (None, _) => false,
            (Some(version), Says::Candidate) => fix.is_in_candidate(version),
            (Some(version), Says::All | Says::More) => fix.is_in(version),
        };
        let missing: Vec<_> = FIXES.iter().filter(|fix| !has(fix)).map(|fix| fix.commit).collect();
        match self.says {
            _ if missing.is_empty() => Fixes::All,
            Says::All => Fixes::Lacks(missing),
            Says::Candidate | Says::More => Fixes::Unknown(missing),
        }
    }
}

/// The version that a kernel was made of, and what it says of the patches in it.
fn told(release: &str, build: &str) -> Option<(Version, Says)> {
    let (version, rest) = parse(release)?;
    // Debian says in the second which version of Linux it has taken: 6.1.0-57-amd64 is 6.1.192.
    if let Some((taken, rest)) = build.split_once("Debian ").and_then(|(_, version)| parse(version)) {
        let is_told = (taken.0, taken.1) == (version.0, version.1);
        return Some(if is_told { (taken, Says::of(rest)) } else { (version, Says::More) });
    }
    // 6.8.0-45-generic (Ubuntu), 6.12.0-55.el10 (RHEL): which patches are in it, the number behind knows.
    let is_numbered = version.2 == 0 && rest.strip_prefix('-').and_then(number).is_some();
    Some((version, if is_numbered { Says::More } else { Says::of(rest) }))
}

/// The version that a text begins with, and what follows.
fn parse(text: &str) -> Option<(Version, &str)> {
    let (major, rest) = number(text)?;
    let (minor, rest) = number(rest.strip_prefix('.')?)?;
    let patch = rest.strip_prefix('.').and_then(number);
    let (patch, rest) = patch.unwrap_or((0, rest));
    Some((Version(major, minor, patch), rest))
}

fn number(text: &str) -> Option<(u32, &str)> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, rest) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "#1 SMP PREEMPT_DYNAMIC Debian ";

    fn fixes(release: &str, build: &str) -> Fixes {
        Kernel::new(release, build).fixes()
    }

    #[test]
    fn a_branch_has_a_fix_from_its_own_version_on() {
        let both = vec!["c50f8e60", "0ea148a7"];
        let second = vec!["0ea148a7"];
        let cases = [
            ("6.8.0", Some(&both)),
            ("6.11.11", Some(&both)),
            ("6.12.19", Some(&both)),
            ("6.12.20", Some(&second)),
            ("6.12.36", Some(&second)),
            ("6.12.37", None),
            ("6.12.117+deb12-amd64", None),
            ("6.13.7", Some(&both)),
            ("6.13.12", Some(&second)),
            ("6.14", Some(&second)),
            ("6.14.11-300.fc42.x86_64", Some(&second)),
            ("6.15.4", Some(&second)),
            ("6.15.5", None),
            ("6.16.0", None),
            ("6.18.44-fc-v595", None),
            ("7.0.0-3-generic", None),
        ];
        for (release, missing) in cases {
            let expected = missing.map_or(Fixes::All, |missing| Fixes::Lacks(missing.clone()));
            assert_eq!(fixes(release, "#1 SMP"), expected, "{release}");
        }
    }

    #[test]
    fn debian_says_its_version_elsewhere() {
        assert_eq!(fixes("6.12.0-3-amd64", &format!("{DEBIAN}6.12.117-1 (2026-11-01)")), Fixes::All);
        let old = fixes("6.10.11+bpo-amd64", &format!("{DEBIAN}6.10.11-1~bpo12+1 (2024-10-03)"));
        assert_eq!(old, Fixes::Lacks(vec!["c50f8e60", "0ea148a7"]));
        let candidate = fixes("6.16-rc7-amd64", &format!("{DEBIAN}6.16~rc7-1~exp1 (2025-07-20)"));
        assert_eq!(candidate, Fixes::Unknown(vec!["0ea148a7"]));
        let contradicting = fixes("2.6.72+deb12-amd64", &format!("{DEBIAN}6.12.117-1~deb12u1 (2026-11-01)"));
        assert!(matches!(contradicting, Fixes::Unknown(_)));
    }

    #[test]
    fn of_others_whose_version_hides_the_patches_nobody_knows() {
        for release in ["6.8.0-45-generic", "6.12.0-55.9.1.el10_0.x86_64", "6.14.0-27-generic"] {
            assert!(matches!(fixes(release, "#45-Ubuntu SMP"), Fixes::Unknown(_)), "{release}");
        }
        assert!(matches!(fixes("6.14.0-rc3", "#1"), Fixes::Unknown(_)));
        assert!(matches!(fixes("strange", ""), Fixes::Unknown(_)));
        assert_eq!(fixes("6.17.0-5-generic", "#5-Ubuntu SMP"), Fixes::All);
    }

    #[test]
    fn people_are_told_the_first_versions_that_have_all() {
        assert_eq!(good_versions(), "6.12.37, 6.15.5, 6.16");
    }
}
