//! What is read besides the hooks: socket tables, `/proc`, cgroups, network namespaces. They return plain facts and
//! must not know aya, judge, or keep a clock for the model.

pub mod ask;
pub mod cgroup;
pub mod cgroup_tree;
pub mod clock;
pub mod host_names;
pub mod netns;
pub mod own_cost;
pub mod port_set;
pub mod procfs;
pub mod sock_diag;
pub mod socket_count;
pub mod socket_owners;
pub mod socket_search;
pub mod sockstat;
pub mod sysctls;
