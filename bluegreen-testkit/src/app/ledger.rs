//! The ledger: after everything, every acknowledged write is looked for in the database that writes now.

use super::measure::Acked;
use crate::servers::postgres::connect;
use futures::TryStreamExt;
use serde::Serialize;
use std::collections::HashMap;
use std::pin::pin;

/// What became of the acknowledged writes. All zero is the promise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// Acknowledged, and not there, or there with another account or amount.
    pub lost: u64,
    /// There more than once.
    pub doubled: u64,
    /// Accounts whose balance is not the sum of their orders.
    pub unbalanced: u64,
}

impl Ledger {
    /// Whether nothing is missing, doubled or out of balance.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// Looks for every acknowledged write, and compares the balances with the orders.
///
/// # Errors
/// When the database cannot be read.
pub async fn check(acked: &[Acked], url: &str) -> Result<Ledger, tokio_postgres::Error> {
    let client = connect(url).await?;
    // A scan is asked for, not an index: an index that lacks a row must not hide it.
    client
        .batch_execute("SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off")
        .await?;
    let none: [&str; 0] = [];
    let rows = client
        .query_raw(
            "SELECT token, acct, amount FROM orders WHERE token NOT LIKE 'old-%'",
            none,
        )
        .await?;
    let mut rows = pin!(rows);
    let mut found: HashMap<String, Vec<(i32, i64)>> = HashMap::new();
    while let Some(row) = rows.try_next().await? {
        found.entry(row.get(0)).or_default().push((row.get(1), row.get(2)));
    }
    let mut ledger = Ledger::default();
    for Acked { order, .. } in acked {
        match found.get(&order.token).map(Vec::as_slice) {
            Some(rows) if !rows.contains(&(order.acct, order.amount)) => ledger.lost += 1,
            None => ledger.lost += 1,
            Some(_) => {}
        }
    }
    // Also of writes whose acknowledgement was lost: they may be there, but not twice.
    ledger.doubled = found
        .values()
        .filter(|rows| rows.len() > 1)
        .map(|rows| rows.len() as u64 - 1)
        .sum();
    let unbalanced = "SELECT count(*) FROM accounts LEFT JOIN
            (SELECT acct, sum(amount) AS spent FROM orders GROUP BY acct) AS sums ON sums.acct = accounts.id
         WHERE balance <> opening + coalesce(spent, 0)";
    let row = client.query_one(unbalanced, &[]).await?;
    ledger.unbalanced = u64::try_from(row.get::<_, i64>(0)).unwrap_or(u64::MAX);
    Ok(ledger)
}
