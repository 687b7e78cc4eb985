//! Flags of `list`.

use clap::Args;

use super::super::size;

#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    /// Show this guest alone
    #[arg(long = "id", value_name = "ID", value_parser = size::guest)]
    pub(in crate::cli) guest: Option<String>,
    /// Answer in JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
}
