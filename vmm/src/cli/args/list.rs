//! Flags of `list`.

use clap::Args;

#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    /// Answer in JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
}
