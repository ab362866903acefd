//! x
/// x
#[derive(clap::Args)]
pub struct Options {}
/// x
pub async fn main(_options: Options) -> u8 {
    0
}
