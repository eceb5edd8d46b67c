//! One file per kernel function. An entry point reads its arguments and hands over; a second tier of the same
//! hook is a second entry point in the same file. `HOOKS` in `portchurn/src/live/hooks.rs` lists them all.

mod call_sites;
mod inet_csk_accept;
mod inet_csk_get_port;
mod inet_sock_set_state;
mod sched_process_exec;
mod sched_process_exit;
mod sched_process_fork;
mod tcp_connect;
mod tcp_time_wait;
