//! The OpenAPI description: generated from the code, checked in as `vmm/openapi.json`, served from
//! there, so that a running process need not build it.

use utoipa::OpenApi;

use super::routes::ApiDoc;

/// The description as checked in; `GET /openapi.json`.
pub const CHECKED_IN: &str = include_str!("../../openapi.json");

/// The description as the code says it, with a final line break. What `aerostat openapi` prints.
pub fn generate() -> Result<String, serde_json::Error> {
    let mut text = ApiDoc::openapi().to_pretty_json()?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checked_in_description_is_that_of_the_code() {
        let generated = super::generate().expect("generates");
        let same = generated == super::CHECKED_IN;
        assert!(same, "the API changed: run `cargo run -p vmm -- openapi > openapi.new && mv openapi.new vmm/openapi.json`");
    }
}
