//! Iterations and transactions of dict clients as state machines without I/O: answers go in, requests and rows come
//! out.

pub mod commit;
pub mod iteration;
