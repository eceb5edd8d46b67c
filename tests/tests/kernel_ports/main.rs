//! TIME_WAIT and local ports against the kernel's own tables and the programs' own counts, in network namespaces with a
//! cable between them. Need the privileges of a tracer. One program, because a guest holds every test program in memory.

mod call_sites;
mod contract;
mod exhaustion;
mod forecast;
mod shares;
mod time_wait;

/// Where servers listen at the far end of a cable.
const ADDRESS: &str = "10.77.0.2:7000";
const ADDRESS_V6: &str = "[fd77::2]:7000";
