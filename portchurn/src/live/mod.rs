//! The only code that knows aya: it gets the programs into the kernel and their numbers out.
//!
//! ```text
//! preflight   what this kernel and these privileges allow
//! btf         types of the kernel    members  which are read    tracefs  layout of the classic tracepoint
//! hooks       the table of hooks and tiers
//! sizes       entries of the maps
//! preemption  programs that keep their processor
//! loader      all of the above → maps, and through attach, tier after tier, programs in the kernel
//! memory      what the allocator keeps
//! tables      maps as memory    keys  their life    seed  sockets from before the attach
//! retired     what references meant    closed  connections that ended    owners  whose a socket is    owner  by number
//! unlisted    ends that no list has shown yet    runs  by cookie, fast
//! tuples      the same where sockets have no cookies
//! reader      the socket tables, on a thread of its own    pace  when    search  who opened a connection
//! listing     all of that as the collector has it
//! roll_call   connections whose end nobody saw    unnoticed  processes, the same    drain  records, taken out in time
//! sites       the table of call sites    stacks  their stacks, taken at once    looks  interpreters, found in time
//! turns       how soon these two get a processor
//! usage       what it costs itself    kprobe_misses  what the kernel leaves out before a program
//! collector   tables and records → Sample
//! ```

pub mod attach;
pub mod btf;
pub mod closed;
pub mod collector;
pub mod drain;
pub mod error;
pub mod hooks;
pub mod keys;
pub mod kprobe_misses;
pub mod listing;
pub mod loader;
pub mod looks;
pub mod members;
pub mod memory;
pub mod owner;
pub mod owners;
pub mod pace;
pub mod preemption;
pub mod preflight;
pub mod reader;
pub mod records;
pub mod retired;
pub mod roll_call;
pub mod runs;
pub mod search;
pub mod seed;
pub mod sites;
pub mod sizes;
pub mod stacks;
pub mod tables;
pub mod tracefs;
pub mod tuples;
pub mod turns;
pub mod unlisted;
pub mod unnoticed;
pub mod usage;
