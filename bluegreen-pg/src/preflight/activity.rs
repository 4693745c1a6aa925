//! Transactions that the start or the cut-over would wait for, in any database of the server.

use super::{Look, commands, listed, texts};
use bluegreen_core::Result;

/// From when a transaction is long, in seconds.
const LONG: &str = "10";

/// Which of the two it is to be, we cannot know: neither may happen by pasting them.
const ENDED: &str = "at blue, what the transaction manager decided for each";

pub(super) async fn check(look: &mut Look<'_>) -> Result<()> {
    long(look).await?;
    prepared(look).await
}

async fn long(look: &mut Look<'_>) -> Result<()> {
    let long = texts::<2>(
        look.blue,
        &format!(
            "SELECT format('pid %s (%s in %I, %s, since %s s%s)', pid, coalesce(usename, '?'), coalesce(datname, '?'), \
              coalesce(nullif(application_name, ''), 'no application name'), \
              extract(epoch FROM clock_timestamp() - xact_start)::bigint, \
              CASE WHEN backend_xid IS NULL THEN ', it has not written' ELSE ', it writes' END), \
             format('SELECT pg_terminate_backend(%s);', pid) FROM pg_stat_activity \
             WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() \
             AND clock_timestamp() - xact_start > interval '{LONG} s' ORDER BY xact_start"
        ),
    )
    .await?;
    if !long.is_empty() {
        let seen: Vec<&String> = long.iter().map(|[who, _]| who).collect();
        look.warns(
            "long-transactions",
            listed("long transaction", &seen),
            "the mirror's slot waits for every transaction that writes, in all databases of blue; so does the cut-over for those \
             that lock its tables",
            format!("let them end, or at blue: {}", commands(long.iter().map(|[_, mend]| mend.clone()))),
        );
    }
    Ok(())
}

async fn prepared(look: &mut Look<'_>) -> Result<()> {
    let prepared = texts::<3>(
        look.blue,
        &format!(
            "SELECT format('%L in %I of %s, since %s s', gid, database, owner, \
              extract(epoch FROM clock_timestamp() - prepared)::bigint), \
             format('connected to %2$I: -- COMMIT PREPARED %1$L; -- or ROLLBACK PREPARED %1$L;', gid, database), \
             (clock_timestamp() - prepared > interval '{LONG} s')::text FROM pg_prepared_xacts ORDER BY prepared"
        ),
    )
    .await?;
    if prepared.is_empty() {
        return Ok(());
    }
    let seen: Vec<&String> = prepared.iter().map(|[what, ..]| what).collect();
    let seen = listed("prepared transaction", &seen);
    let mend = commands(prepared.iter().map(|[_, mend, _]| mend.clone()));
    if prepared.iter().any(|[.., old]| old == "true") {
        look.blocks(
            "prepared-transactions",
            seen,
            "it ends only when somebody ends it: the mirror's slot, in whatever database it is, and the cut-over wait for it",
            format!("{ENDED}: {mend}"),
        );
    } else {
        look.warns(
            "prepared-transactions",
            seen,
            "the application commits in two phases: a cut-over is given up when it meets one that is prepared and not committed",
            format!("see that the transaction manager ends them quickly; {ENDED}: {mend}"),
        );
    }
    Ok(())
}
