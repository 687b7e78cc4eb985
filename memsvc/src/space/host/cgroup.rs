//! The memory controller's groups of this process, from its own up to the highest that can be seen, and their
//! limits. See cgroups(7), Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.

use super::Host;

/// More than any machine has: how version 1 writes "no limit", a little less than 2^63.
pub(super) const UNLIMITED: u64 = 1 << 62;

/// Groups of this process.
#[derive(Debug)]
pub(super) struct Groups {
    /// Directories, its own first.
    pub(super) directories: Vec<String>,
    /// Whether they are of version 1.
    pub(super) is_old: bool,
}

/// A limit, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    /// The file that says it.
    pub(super) file: String,
    pub(super) bytes: u64,
}

impl Host {
    /// The lowest limit of this name, as version 2 calls it; the innermost, where two are as low.
    pub(super) fn limit(&self, name: &str) -> Option<Limit> {
        let groups = self.groups();
        let name = match (groups.is_old, name) {
            (true, "memory.max") => "memory.limit_in_bytes",
            // Version 1 slows nobody down, and has no limit on swap alone.
            (true, _) => return None,
            (false, name) => name,
        };
        let files = groups.directories.iter().map(|directory| format!("{directory}/{name}"));
        let limits = files.filter_map(|file| self.read_number(&file).map(|bytes| Limit { file, bytes }));
        limits.filter(|limit| limit.bytes < UNLIMITED).min_by_key(|limit| limit.bytes)
    }

    /// The innermost group in which the kernel kills all processes together, and others than this one are.
    pub(super) fn shared_oom_group(&self) -> Option<String> {
        let directories = self.groups().directories.into_iter();
        let is_alone = |at: usize, directory: &str| {
            at == 0
                && self
                    .read(&format!("{directory}/cgroup.procs"))
                    .is_some_and(|text| text.lines().count() == 1)
        };
        let is_killed = |file: &str| self.read_number(file) == Some(1);
        directories
            .enumerate()
            .filter(|(at, directory)| !is_alone(*at, directory))
            .map(|(_, directory)| format!("{directory}/memory.oom.group"))
            .find(|file| is_killed(file))
    }

    pub(super) fn groups(&self) -> Groups {
        let member = self.read("/proc/self/cgroup").unwrap_or_default();
        let path_of = |is_it: &dyn Fn(&str) -> bool| {
            // hierarchy:controller,controller:path
            member.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':');
                let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
                is_it(controllers).then(|| path.to_owned())
            })
        };
        let old = path_of(&|controllers| controllers.split(',').any(|controller| controller == "memory"));
        let is_old = old.is_some();
        let path = old.or_else(|| path_of(&str::is_empty));
        let directories = path.and_then(|path| self.directories(&path, is_old)).unwrap_or_default();
        Groups { directories, is_old }
    }

    /// The directory of the group of this path and those above it, up to where the hierarchy is mounted.
    fn directories(&self, path: &str, is_old: bool) -> Option<Vec<String>> {
        let mounts = self.read("/proc/self/mountinfo")?;
        let (root, mount) = mounts.lines().find_map(|line| mounted(line, is_old))?;
        // In a container the mount may show only what is below the container's own group.
        let below = path.strip_prefix(root).unwrap_or_default().trim_matches('/');
        let mut directories = vec![mount.trim_end_matches('/').to_owned()];
        for name in below.split('/').filter(|name| !name.is_empty()) {
            let above = directories.last().cloned().unwrap_or_default();
            directories.push(format!("{above}/{name}"));
        }
        directories.reverse();
        Some(directories)
    }
}

/// Root and place of a mount of the memory controller, of a line of `mountinfo`:
/// `36 35 0:30 ROOT PLACE options … - TYPE source options`.
fn mounted(line: &str, is_old: bool) -> Option<(&str, &str)> {
    let (mount, system) = line.split_once(" - ")?;
    let mut system = system.split_whitespace();
    let is_it = match system.next()? {
        "cgroup2" => !is_old,
        "cgroup" => is_old && system.nth(1)?.split(',').any(|option| option == "memory"),
        _ => false,
    };
    let mut mount = mount.split_whitespace().skip(3);
    is_it.then_some((mount.next()?, mount.next()?))
}
