//! Who keeps the copy waiting for a lock. `pg_dump` and each piece lock their tables as any `SELECT` does, without a limit: whoever has
//! one for hours is as good as a failure, and only he can end it. So he is named.

use crate::connect::Session;
use crate::error::Doing;
use crate::ident::copy_application_name;
use crate::progress::Report;
use crate::replicator::Context;
use bluegreen_core::{Color, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::types::Type;

/// How often it is looked. Who waits for less is not worth a word.
const EVERY: Duration = Duration::from_secs(2);

const PART: &str = "locks";

/// Which tables our sessions (`$1`) have waited for so long (`$2`, in seconds), and whom for.
const WAITING: &str = "SELECT DISTINCT format('waits for %s, which is locked by %s', l.relation::regclass, coalesce(( \
         SELECT string_agg(DISTINCT CASE WHEN b.pid = 0 THEN 'a prepared transaction' \
             ELSE format('pid %s of %s, %s, in a transaction since %s', b.pid, coalesce(h.usename, h.backend_type, '?'), \
                 coalesce(h.state, '?'), coalesce(h.xact_start::text, '?')) END, '; ') \
         FROM unnest(pg_blocking_pids(l.pid)) AS b (pid) LEFT JOIN pg_stat_activity h ON h.pid = b.pid), 'somebody')) \
     FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
     WHERE NOT l.granted AND l.locktype = 'relation' AND a.datname = current_database() AND a.application_name = $1 \
     AND l.waitstart < clock_timestamp() - make_interval(secs => $2) ORDER BY 1 LIMIT 5";

/// Tells the report, until it is dropped. A look that fails ends nothing.
pub(super) async fn watch(context: Arc<Context>, report: Arc<Report>) {
    report.trouble(PART, None);
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(error) = watch_sessions(&context, &report).await {
            tracing::debug!(%error, "whom the copy waits for cannot be seen");
        }
    }
}

async fn watch_sessions(context: &Context, report: &Report) -> Result<()> {
    let settings = &context.settings;
    let (blue, green) = tokio::try_join!(settings.connect_copy(Color::Blue), settings.connect_copy(Color::Green))?;
    let ours = copy_application_name(&settings.name);
    loop {
        let (at_blue, at_green) =
            tokio::try_join!(waiting(&blue, Color::Blue, &ours), waiting(&green, Color::Green, &ours))?;
        let all: Vec<String> = at_blue.into_iter().chain(at_green).collect();
        report.trouble(PART, (!all.is_empty()).then(|| all.join("; ")));
        tokio::time::sleep(EVERY).await;
    }
}

async fn waiting(session: &Session, color: Color, ours: &str) -> Result<Vec<String>> {
    let rows = session
        .query_typed(WAITING, &[(&ours, Type::TEXT), (&EVERY.as_secs_f64(), Type::FLOAT8)])
        .await
        .doing("look whom the copy waits for")?;
    Ok(rows
        .iter()
        .map(|row| format!("at {color} it {}", row.get::<_, &str>(0)))
        .collect())
}
