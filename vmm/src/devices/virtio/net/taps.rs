//! TAP interfaces that are open before there are cards for them. An interface that opening has made is there for as long as
//! it is open. So an operator can set the interface up between naming it and the start of the guest. A start that
//! fails takes nothing of that away.

use std::collections::HashMap;

use super::{Tap, TapError};

/// Open interfaces by name.
#[derive(Debug, Default)]
pub struct Taps(HashMap<String, Tap>);

impl Taps {
    /// Opens the interface `name`, if it is not open here.
    ///
    /// # Errors
    /// As [`Tap::open`].
    pub fn hold(&mut self, name: &str) -> Result<(), TapError> {
        if !self.0.contains_key(name) {
            self.0.insert(name.to_owned(), Tap::open(name)?);
        }
        Ok(())
    }

    /// Closes all that nobody wants.
    pub fn retain(&mut self, is_wanted: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| is_wanted(name));
    }

    /// The interface `name` for a card. It stays open here, too.
    ///
    /// # Errors
    /// As [`Tap::open`].
    pub fn lend(&mut self, name: &str) -> Result<Tap, TapError> {
        self.hold(name)?;
        self.0.get(name).map_or_else(|| Tap::open(name), |tap| tap.again(name))
    }
}
