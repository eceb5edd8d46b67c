//! Known workloads, and what the tests share. A workload is a process of its own that makes TCP connections and prints
//! what it did; the tests let portchurn watch it and compare. Nothing here knows portchurn's code, only its output.
//!
//! | Test program | Needs | Proves |
//! |---|---|---|
//! | `workloads` | network namespaces | the workloads do what they say, by the kernel's own counters |
//! | `cli` | nothing | wrong input, missing privileges, no tracefs: the right words and the right exit status |
//! | `kernel_truth` | a tracer's privileges | every kind of open, close and failure, on every tier |
//! | `kernel_bulk` | the same, two processors | exact at the highest rate, and on crowded processors |
//! | `kernel_life` | the same | attach, detach, two at once, sockets from before |
//! | `kernel_unseen` | the same | ends that no program saw are found, and nobody who lives is declared dead |
//! | `kernel_filters` | the same | what is asked for is counted, and nothing else |
//! | `kernel_ports` | the same | whose every TIME_WAIT is, ports that are left, the moment there are none |
//! | `kernel_members` | the same | a kernel whose types lack a member |
//! | `attach_matrix` | the same, in virtual machines | each hook in each way that it has |
//! | `smoke` | the same | the released file |
//! | `call_sites`, `call_site_outputs` | the same, Pythons | every stack is the interpreter's, every output says the same |
//! | `site_native`, `site_lives` | the same, compilers | stacks of compiled programs, whatever becomes of their files |
//! | `site_drivers` | the same, servers | the application's line behind the drivers that people use |
//! | `site_unread` | the same, PHP, Ruby, Perl | scripts of which no line can be known, and none is blamed |
//! | `site_limits`, `site_hostile`, `site_harmless` | the same | what is not named says why, and nobody is touched |
//! | `incidents` | the same, servers | the five incidents |
//! | `soak` | the same, minutes, `--ignored` | memory is flat |
//!
//! The programs under test are those that cargo built beside the tests, or what these variables name:
//! `PORTCHURN_BIN` (portchurn) and `PORTCHURN_WORKLOAD` (portchurn-workload). A test that cannot run prints
//! `SKIP name: why` and passes, but fails with `PORTCHURN_REQUIRE=1`.

pub mod harness;
pub mod truth;
pub mod workloads;
