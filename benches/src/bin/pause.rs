//! How long writes pause by how many tables and sequences there are: cut over, and back, and again, on real servers, with nobody else
//! there. What clients cost beside it, the demo tells.
//!
//!     cargo run --release -p benches --bin pause -- [--tables 2000] [--rounds 5]

use benches::copying::{DATABASE, Data, Outcome, cluster};
use bluegreen_core::{Color, Direction, MirrorStatus, Replicator};
use bluegreen_pg::PgReplicator;
use clap::Parser;
use std::time::{Duration, Instant};

/// Measures pauses.
#[derive(Debug, Parser)]
struct Args {
    /// So many tables, each with a sequence, a key and an index.
    #[arg(long, default_value_t = 2000)]
    tables: u32,
    /// How many cut-overs, every second one back.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// What a pause may take here: it is to be measured, not refused.
const BUDGET: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Outcome<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let args = Args::parse();
    let (blue, green) = tokio::try_join!(cluster(), cluster())?;
    blue.execute(DATABASE, &Data::Tables(args.tables).sql()).await?;
    blue.execute(DATABASE, "VACUUM ANALYZE").await?;
    let replicator = PgReplicator::builder("pause", blue.url(DATABASE), green.url(DATABASE)).build()?;
    let mut pauses = Vec::new();
    for round in 0..args.rounds {
        let (to, direction) = if round % 2 == 0 {
            (Color::Green, Direction::BlueToGreen)
        } else {
            (Color::Blue, Direction::GreenToBlue)
        };
        replicator.start(direction).await?;
        streaming(&replicator, direction).await?;
        let begun = Instant::now();
        let forecast = replicator.arm(to, BUDGET).await?;
        let armed = begun.elapsed();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let begun = Instant::now();
        let position = replicator.fence(to.other(), BUDGET).await?;
        let fenced = begun.elapsed();
        while !replicator.caught_up(&position).await? {}
        let proved = begun.elapsed();
        replicator.hand_over(to).await?;
        let handed = begun.elapsed();
        replicator.promote(to).await?;
        let pause = begun.elapsed();
        let ms = |took: Duration| took.as_secs_f64() * 1000.0;
        println!(
            "to {to:<5}  pause {:>7.1} ms (foretold {:.1}): fence {:.1}, proof {:.1}, hand-over {:.1}, opening {:.1}; armed in {:.0}",
            ms(pause),
            ms(forecast.expected),
            ms(fenced),
            ms(proved - fenced),
            ms(handed - proved),
            ms(pause - handed),
            ms(armed),
        );
        pauses.push(ms(pause));
    }
    pauses.sort_by(f64::total_cmp);
    println!(
        "{} tables and as many sequences: median {:.1} ms, least {:.1}, most {:.1}",
        args.tables,
        pauses[pauses.len() / 2],
        pauses[0],
        pauses[pauses.len() - 1]
    );
    replicator.stop(Color::Blue).await?;
    Ok(())
}

async fn streaming(replicator: &PgReplicator, direction: Direction) -> Outcome<()> {
    loop {
        match replicator.status(direction).await? {
            MirrorStatus::Streaming(lag) if lag.time.is_some() => return Ok(()),
            MirrorStatus::Failed { why, .. } => return Err(why.into()),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
