//! What the application does in its database: writes an order, reads one. Where the database is, it is told.

use super::pool::{Lease, Pool};
use bluegreen_core::{AppGate, AppGuard};
use serde::{Deserialize, Serialize};
use tokio_postgres::types::Type;

/// The way to the database that writes.
#[derive(Debug, Clone)]
pub enum Database {
    /// Through a gate in the application itself, which hands out the right side's pool.
    Gated(AppGate<Pool>),
    /// By one URL, behind which a pooler decides.
    Pooled(Pool),
}

/// One order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its name, made by the client; no two orders have the same.
    pub token: String,
    /// Whose.
    pub acct: i32,
    /// How much.
    pub amount: i64,
}

/// Why an order was not written or read.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The database said no, or broke.
    #[error("{}", said(.0))]
    Database(#[from] tokio_postgres::Error),
    /// There is no such account.
    #[error("no account {0}")]
    NoAccount(i32),
    /// The answer to the commit was lost: it may have happened.
    #[error("the answer to the commit was lost: {}", said(.0))]
    Unknown(tokio_postgres::Error),
}

/// The server's own words; the client's error alone reads `db error`.
fn said(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(
        || error.to_string(),
        |db| format!("{}: {}", db.code().code(), db.message()),
    )
}

/// How often a unit of work is begun again when its connection turns out broken before anything was committed.
const TRIES: u32 = 3;

/// A running unit of work: what it holds keeps a gate from closing.
struct Unit {
    client: Lease,
    _guard: Option<AppGuard<Pool>>,
}

impl Database {
    async fn begin(&self) -> Result<Unit, tokio_postgres::Error> {
        match self {
            Self::Pooled(pool) => Ok(Unit {
                client: pool.get().await?,
                _guard: None,
            }),
            Self::Gated(gate) => {
                let guard = gate.enter().await;
                Ok(Unit {
                    client: guard.get().await?,
                    _guard: Some(guard),
                })
            }
        }
    }

    /// Writes an order and its account's balance in one transaction.
    ///
    /// # Errors
    /// Any but [`OrderError::Unknown`] says that nothing was written.
    pub async fn write(&self, order: &Order) -> Result<(), OrderError> {
        let mut tries = 1;
        loop {
            let mut unit = self.begin().await?;
            match write(&mut unit.client, order).await {
                Err(OrderError::Database(_)) if unit.client.is_closed() && tries < TRIES => tries += 1,
                result => return result,
            }
        }
    }

    /// Reads an order.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn read(&self, token: &str) -> Result<Option<Order>, OrderError> {
        let sql = "SELECT acct, amount FROM orders WHERE token = $1";
        let mut tries = 1;
        loop {
            let unit = self.begin().await?;
            match unit.client.query_typed_opt(sql, &[(&token, Type::TEXT)]).await {
                Err(_) if unit.client.is_closed() && tries < TRIES => tries += 1,
                Err(error) => return Err(error.into()),
                Ok(row) => {
                    let order = |row: tokio_postgres::Row| Order {
                        token: token.to_owned(),
                        acct: row.get(0),
                        amount: row.get(1),
                    };
                    return Ok(row.map(order));
                }
            }
        }
    }

    /// Asks whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), OrderError> {
        let mut tries = 1;
        loop {
            let unit = self.begin().await?;
            match unit.client.query_typed("SELECT 1", &[]).await {
                Err(_) if unit.client.is_closed() && tries < TRIES => tries += 1,
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(()),
            }
        }
    }
}

/// Unnamed statements only: a pooler in transaction mode need not know of prepared ones.
async fn write(client: &mut Lease, order: &Order) -> Result<(), OrderError> {
    let transaction = client.transaction().await?;
    let insert = "INSERT INTO orders (token, acct, amount) VALUES ($1, $2, $3)";
    let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] = [
        (&order.token, Type::TEXT),
        (&order.acct, Type::INT4),
        (&order.amount, Type::INT8),
    ];
    let update = "UPDATE accounts SET balance = balance + $2 WHERE id = $1";
    // One after the other on the wire, without waiting in between.
    let (_, updated) = futures::future::try_join(
        transaction.execute_typed(insert, &values),
        transaction.execute_typed(update, &[(&order.acct, Type::INT4), (&order.amount, Type::INT8)]),
    )
    .await?;
    if updated != 1 {
        return Err(OrderError::NoAccount(order.acct));
    }
    transaction.commit().await.map_err(|error| {
        // What the server itself says about a commit is an answer.
        if error.as_db_error().is_some() {
            OrderError::Database(error)
        } else {
            OrderError::Unknown(error)
        }
    })
}
