//! The guest that a command speaks to.
//!
//! ```text
//! --api-sock PATH or --id ID, else $AEROSTAT_API_SOCK, else the only guest that runs
//! ```

use std::path::PathBuf;

use anyhow::{Context, bail};

use super::args::Target;
use crate::{
    api::client::{Client, ClientError},
    registry::{Guest, guests},
};

/// So many guests are named where there is a choice.
const NAMED: usize = 10;

/// Where a guest's API is.
pub(super) struct Address {
    pub(super) socket: PathBuf,
    /// The user who is to listen there: whoever it is, where the operator has named the socket.
    pub(super) user: Option<u32>,
}

impl Target {
    /// Where the guest's API is.
    ///
    /// # Errors
    /// It is not clear which guest is meant, in a sentence that says how to choose.
    pub(super) fn address(&self) -> anyhow::Result<Address> {
        if let Some(path) = &self.api_sock {
            return Ok(Address { socket: path.clone(), user: None });
        }
        let from_environment = std::env::var_os("AEROSTAT_API_SOCK").filter(|path| !path.is_empty());
        if let (None, Some(path)) = (&self.guest, from_environment) {
            return Ok(Address { socket: path.into(), user: None });
        }
        let guest = choose(guests().context("Guests cannot be looked for")?, self.guest.as_deref())?;
        Ok(Address { socket: guest.socket, user: Some(guest.user) })
    }

    /// A client of the guest's API.
    ///
    /// # Errors
    /// As [`Self::address`].
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        Ok(self.address()?.client()?)
    }
}

impl Address {
    /// A client of it.
    ///
    /// # Errors
    /// This process has no room for one.
    pub(super) fn client(&self) -> Result<Client, ClientError> {
        Ok(Client::new(&self.socket)?.to_user(self.user))
    }
}

/// The guest of this id, or the only one.
pub(super) fn choose(guests: Vec<Guest>, id: Option<&str>) -> anyhow::Result<Guest> {
    let all = names(&guests);
    let (mut wanted, others): (Vec<_>, Vec<_>) =
        guests.into_iter().partition(|guest| id.is_none_or(|id| guest.id == id));
    match (wanted.len(), id) {
        (1, _) => Ok(wanted.remove(0)),
        (0, Some(id)) if !others.is_empty() => {
            bail!("No guest {id:?} can be reached: those that run are {all}.")
        }
        (0, _) => bail!(
            "No guest runs that this user can reach: start one with aerostat run, or name the socket of its API with --api-sock."
        ),
        (_, Some(id)) => {
            let sockets: Vec<_> = wanted.iter().map(|guest| guest.socket.display().to_string()).collect();
            bail!("Several guests are called {id:?}: name one with --api-sock {}.", sockets.join(" or "))
        }
        (count, None) => bail!("{count} guests run, {all}: say which one you mean with --id."),
    }
}

/// Their names, as a sentence has them.
fn names(guests: &[Guest]) -> String {
    let shown: Vec<_> = guests.iter().take(NAMED).map(|guest| guest.id.as_str()).collect();
    match (shown.split_last(), guests.len().saturating_sub(NAMED)) {
        (Some((last, [])), 0) => (*last).to_owned(),
        (Some((last, before)), 0) => format!("{} and {last}", before.join(", ")),
        (_, more) => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(ids: &[&str]) -> Vec<Guest> {
        let guest = |id: &&str| Guest {
            id: (*id).to_owned(),
            socket: format!("/r/{id}.sock").into(),
            user: 0,
            pid: None,
        };
        ids.iter().map(guest).collect()
    }

    fn refused(ids: &[&str], id: Option<&str>) -> String {
        choose(running(ids), id).expect_err("no choice").to_string()
    }

    #[test]
    fn the_only_guest_is_meant_and_an_id_finds_its_own() {
        let web = running(&["web"]).remove(0);
        assert_eq!(choose(running(&["web"]), None).unwrap(), web);
        assert_eq!(choose(running(&["db", "web"]), Some("web")).unwrap(), web);
    }

    #[test]
    fn a_choice_that_is_not_clear_has_its_sentence() {
        assert_eq!(
            refused(&["db", "web"], None),
            "2 guests run, db and web: say which one you mean with --id."
        );
        let sentence = refused(&[], None);
        assert_eq!(
            sentence,
            "No guest runs that this user can reach: start one with aerostat run, or name the socket of its API with --api-sock."
        );
        assert_eq!(refused(&[], Some("web")), sentence);
        assert_eq!(refused(&["db"], Some("web")), "No guest \"web\" can be reached: those that run are db.");
        assert_eq!(
            refused(&["web", "web"], Some("web")),
            "Several guests are called \"web\": name one with --api-sock /r/web.sock or /r/web.sock."
        );
        let many: Vec<_> = (10..22).map(|number| number.to_string()).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let sentence = refused(&many, None);
        assert!(
            sentence.starts_with("12 guests run, 10, 11,") && sentence.contains("19 and 2 more:"),
            "{sentence}"
        );
    }
}
