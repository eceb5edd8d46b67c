//! Known workloads, and what the tests share. A workload is a process of its own that makes TCP connections and prints
//! what it did; the tests let portchurn watch it and compare. Nothing here knows portchurn's code, only its output.

pub mod harness;
pub mod truth;
pub mod workloads;
