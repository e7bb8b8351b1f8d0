//! Use cases of agents over a store without a process, on clocks that a test moves.

mod begin;
mod bounded;
mod delegate;
mod ending;
mod finish;
mod mint;
mod prove;
mod secret;
mod shown;
mod sweep;
