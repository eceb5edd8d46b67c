//! TIME_WAIT and local ports against the kernel's own tables and the programs' own counts, in network namespaces with a
//! cable between them. Need the privileges of a tracer. One program, because a guest holds every test program in memory.

mod call_sites;
mod contract;
mod exhaustion;
mod forecast;
mod time_wait;
