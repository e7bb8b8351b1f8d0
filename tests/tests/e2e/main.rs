//! End to end: real brokers as processes, real TLS, real Redis. Each test states a sentence and
//! carries its case's number.

mod abuse;
mod activation;
mod cli;
mod delegation;
mod ending;
mod enrollment;
mod evidence;
mod hardware;
mod identity;
mod jwt_svid;
mod leases;
mod manifest;
mod node;
mod operations;
mod prove;
mod refusals;
mod replicas;
mod responders;
mod sdk;
mod secrets;
mod sources;
mod tasks;
mod tpm2;
