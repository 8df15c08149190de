//! The three services, as a user of the mesh would write them.

pub(crate) mod counting;
pub(crate) mod dashboard;
pub(crate) mod greeter;
pub(crate) mod unmeshed;
