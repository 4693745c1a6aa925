//! A small live application, the clients who use it, and the ledger that says whether any of their writes was lost.
//!
//! The application takes orders: one transaction a request writes the order and the balance of its account. It runs once
//! per environment, under an address of its own and the same port, so that DNS alone decides who is asked.

mod clients;
mod http;
pub mod ledger;
mod measure;
mod orders;
mod pool;
pub mod schema;
mod server;

pub use clients::{Clients, ClientsConfig};
pub use measure::{Acked, Live, Outcome, Stall};
pub use orders::{Database, Order, OrderError};
pub use pool::Pool;
pub use server::App;
