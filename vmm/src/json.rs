//! Reads JSON that somebody else has written.

use serde::de::DeserializeOwned;

/// What a document says.
///
/// # Errors
/// It says something else: in words, with the field and the line.
pub(crate) fn parse<T: DeserializeOwned>(document: &[u8]) -> Result<T, String> {
    let mut read = serde_json::Deserializer::from_slice(document);
    let value = serde_path_to_error::deserialize(&mut read).map_err(|error| error.to_string())?;
    // Nothing comes after it.
    read.end().map_err(|error| error.to_string())?;
    Ok(value)
}
