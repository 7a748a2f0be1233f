//! The long jobs of a dict as pure state machines: answers in, questions and rows out.

pub mod commit;
pub mod iteration;
