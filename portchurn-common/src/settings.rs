//! Values that the loader patches into the program's frozen data before the kernel sees it, so that the verifier
//! knows them as constants: offsets from the running kernel's type information, sizes, and what is asked for.
//! A branch on a setting that is off costs nothing: the verifier removes it.

use crate::glob::GlobMasks;

/// An offset that the running kernel does not tell.
pub const UNKNOWN: u32 = u32::MAX;

/// Offsets of members, in bytes, [`UNKNOWN`] where the kernel has no such member or no type information.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Offsets {
    /// `sock.__sk_common.skc_family`, u16.
    pub skc_family: u32,
    /// `skc_daddr`, 4 bytes.
    pub skc_daddr: u32,
    /// `skc_rcv_saddr`, 4 bytes.
    pub skc_rcv_saddr: u32,
    /// `skc_dport`, u16, network order.
    pub skc_dport: u32,
    /// `skc_num`, u16, host order.
    pub skc_num: u32,
    /// `skc_v6_daddr`, 16 bytes.
    pub skc_v6_daddr: u32,
    /// `skc_v6_rcv_saddr`, 16 bytes.
    pub skc_v6_rcv_saddr: u32,
    /// `skc_net.net`, a pointer.
    pub skc_net: u32,
    /// `skc_cookie`, u64.
    pub skc_cookie: u32,
    /// `net.ns.inum`, u32.
    pub net_inum: u32,
    /// `net.ipv4.tcp_death_row.tw_refcount` (`tw_count` before 5.17), u32: TIME_WAIT sockets of the namespace.
    pub net_time_wait: u32,
    /// `net.ipv4.tcp_death_row.sysctl_max_tw_buckets`, u32: how many there may be.
    pub net_time_wait_max: u32,
    /// What [`Self::net_time_wait`] holds when there is none: 1 where it counts references, 0 where sockets.
    pub net_time_wait_none: u32,
    /// `sock.sk_protocol`, u16.
    pub sk_protocol: u32,
    /// `sock.sk_err`, u32.
    pub sk_err: u32,
    /// `sock.sk_socket`, a pointer; null until accept() grafts one.
    pub sk_socket: u32,
    /// `inet_sock.inet_sport`, u16, network order. Survives the release of the port.
    pub inet_sport: u32,
    /// `tcp_sock.segs_out`, u32.
    pub segs_out: u32,
    /// `task_struct.group_leader`, a pointer.
    pub task_group_leader: u32,
    /// `task_struct.start_boottime`, u64 (`real_start_time` before 5.5).
    pub task_start_boottime: u32,
    /// `task_struct.real_parent`, a pointer.
    pub task_real_parent: u32,
    /// `task_struct.flags`, u32.
    pub task_flags: u32,
    /// `task_struct.tgid`, u32.
    pub task_tgid: u32,
    /// `task_struct.comm`, 16 bytes.
    pub task_comm: u32,
    /// `task_struct.mm`, a pointer.
    pub task_mm: u32,
    /// `task_struct.signal`, a pointer.
    pub task_signal: u32,
    /// `signal_struct.live`, an atomic int: threads that still live.
    pub signal_live: u32,
    /// `mm_struct.arg_start`, u64.
    pub mm_arg_start: u32,
    /// `mm_struct.arg_end`, u64.
    pub mm_arg_end: u32,
    /// `mm_struct.exe_file`, a pointer.
    pub mm_exe_file: u32,
    /// `file.f_path.dentry`, a pointer.
    pub file_dentry: u32,
    /// `dentry.d_name.name`, a pointer.
    pub dentry_name: u32,
    /// `mm_struct.start_code`, u64.
    pub mm_start_code: u32,
    /// `mm_struct.end_code`, u64.
    pub mm_end_code: u32,
    /// `task_struct.thread.fsbase`, u64: the thread pointer. x86-64 only.
    pub task_thread_pointer: u32,
    /// Index of the return value among the arguments of `inet_csk_accept`: its prototype changed after 6.8.
    pub accept_result_index: u32,
}

impl Offsets {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self {
        skc_family: UNKNOWN,
        skc_daddr: UNKNOWN,
        skc_rcv_saddr: UNKNOWN,
        skc_dport: UNKNOWN,
        skc_num: UNKNOWN,
        skc_v6_daddr: UNKNOWN,
        skc_v6_rcv_saddr: UNKNOWN,
        skc_net: UNKNOWN,
        skc_cookie: UNKNOWN,
        net_inum: UNKNOWN,
        net_time_wait: UNKNOWN,
        net_time_wait_max: UNKNOWN,
        net_time_wait_none: UNKNOWN,
        sk_protocol: UNKNOWN,
        sk_err: UNKNOWN,
        sk_socket: UNKNOWN,
        inet_sport: UNKNOWN,
        segs_out: UNKNOWN,
        task_group_leader: UNKNOWN,
        task_start_boottime: UNKNOWN,
        task_real_parent: UNKNOWN,
        task_flags: UNKNOWN,
        task_tgid: UNKNOWN,
        task_comm: UNKNOWN,
        task_mm: UNKNOWN,
        task_signal: UNKNOWN,
        signal_live: UNKNOWN,
        mm_arg_start: UNKNOWN,
        mm_arg_end: UNKNOWN,
        mm_exe_file: UNKNOWN,
        file_dentry: UNKNOWN,
        dentry_name: UNKNOWN,
        mm_start_code: UNKNOWN,
        mm_end_code: UNKNOWN,
        task_thread_pointer: UNKNOWN,
        accept_result_index: UNKNOWN,
    };
}

/// Where the fields of the classic tracepoint lie in its record. Bytes; from its `format` file.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TracepointLayout {
    /// `skaddr`, a pointer.
    pub skaddr: u32,
    /// `oldstate`, i32.
    pub oldstate: u32,
    /// `newstate`, i32.
    pub newstate: u32,
    /// `sport`, u16, host order.
    pub sport: u32,
    /// `dport`, u16, host order.
    pub dport: u32,
    /// `family`, u16.
    pub family: u32,
    /// `protocol`, u8 before 5.6, u16 after.
    pub protocol: u32,
    /// Size of `protocol` in bytes.
    pub protocol_size: u32,
    /// `saddr_v6`, 16 bytes; IPv4 is mapped by the kernel.
    pub saddr_v6: u32,
    /// `daddr_v6`, 16 bytes.
    pub daddr_v6: u32,
}

impl TracepointLayout {
    /// Not read.
    pub const UNKNOWN: Self = Self {
        skaddr: UNKNOWN,
        oldstate: UNKNOWN,
        newstate: UNKNOWN,
        sport: UNKNOWN,
        dport: UNKNOWN,
        family: UNKNOWN,
        protocol: UNKNOWN,
        protocol_size: UNKNOWN,
        saddr_v6: UNKNOWN,
        daddr_v6: UNKNOWN,
    };
}

/// What to leave out, decided once for each key, so filters cost nothing in the steady state.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Filters {
    /// 1: only processes in `FILTER_TGIDS`.
    pub tgids: u32,
    /// 1: only `comm` that matches `comm_glob` and `FILTER_COMM`.
    pub comm: u32,
    /// 1: connects only to ports in `FILTER_PORTS`.
    pub connect_ports: u32,
    /// 1: accepts only on ports in `FILTER_PORTS`.
    pub accept_ports: u32,
    /// 1: no connects at all (only accept ports were asked for).
    pub no_connects: u32,
    /// 1: no accepts at all (only connect ports were asked for).
    pub no_accepts: u32,
    /// 4 or 6: only this IP version; 0: both.
    pub ip_version: u32,
    /// Only this network namespace; 0: all.
    pub netns: u32,
    /// Pattern for `comm`.
    pub comm_glob: GlobMasks,
}

impl Filters {
    /// Everything is counted.
    pub const NONE: Self = Self {
        tgids: 0,
        comm: 0,
        connect_ports: 0,
        accept_ports: 0,
        no_connects: 0,
        no_accepts: 0,
        ip_version: 0,
        netns: 0,
        comm_glob: GlobMasks { star: 0, end: 0 },
    };

    /// Whether anything is left out.
    pub const fn are_set(&self) -> bool {
        let Self {
            tgids, comm, connect_ports, accept_ports, no_connects, no_accepts, ip_version, netns, ..
        } = *self;
        tgids | comm | connect_ports | accept_ports | no_connects | no_accepts | ip_version | netns != 0
    }
}

/// Where a kprobe or kretprobe finds the registers of the function that it interrupts. Bytes into `struct pt_regs`,
/// which every architecture lays out in its own way: by asking here, one object serves them all.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Registers {
    /// The function's first argument.
    pub argument: u32,
    /// The second one.
    pub second_argument: u32,
    /// The function's result.
    pub result: u32,
    /// The stack pointer of the user side.
    pub stack_pointer: u32,
    /// The instruction pointer of the user side.
    pub instruction_pointer: u32,
    /// Size of what is copied for unwinding.
    pub size: u32,
}

impl Registers {
    /// Of the machine that this code was compiled for. Frozen user interface: `asm/ptrace.h` of each architecture.
    pub const OF_THIS_MACHINE: Self = if cfg!(target_arch = "x86_64") {
        // di, si, ax, sp, ip
        Self {
            argument: 112,
            second_argument: 104,
            result: 80,
            stack_pointer: 152,
            instruction_pointer: 128,
            size: 168,
        }
    } else if cfg!(target_arch = "aarch64") {
        // regs[0] is the first argument and the result
        Self {
            argument: 0,
            second_argument: 8,
            result: 0,
            stack_pointer: 248,
            instruction_pointer: 256,
            size: 272,
        }
    } else {
        Self {
            argument: UNKNOWN,
            second_argument: UNKNOWN,
            result: UNKNOWN,
            stack_pointer: UNKNOWN,
            instruction_pointer: UNKNOWN,
            size: 0,
        }
    };
}

/// Everything the loader tells the kernel side. The global `SETTINGS` of the object.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Settings {
    /// From the running kernel's BTF.
    pub offsets: Offsets,
    /// From the tracepoint's format file.
    pub tracepoint: TracepointLayout,
    /// From the machine's architecture.
    pub registers: Registers,
    /// From the command line.
    pub filters: Filters,
    /// Places in the connection table minus one; a power of two minus one.
    pub conns_mask: u32,
    /// log2 of the number of shards of the counter table.
    pub shards_log2: u32,
    /// 1: connections are known by their cookie; 0: by the address of their socket.
    pub cookies: u32,
    /// 1: `tcp_time_wait` marks the connections that it is called for; 0: that hook is not attached.
    pub time_wait_hook: u32,
    /// 1: programs at a tracepoint keep their processor, by calls that the loader put in: [`kernel_function`].
    pub hold_preemption: u32,
    /// 1: send a [`crate::record::FlowRecord`] for each event.
    pub trace: u32,
    /// 1: walk interpreter frames.
    pub stack_interpreters: u32,
    /// 1: take native stacks.
    pub stack_native: u32,
}

impl Settings {
    /// What stands in the object until the loader patches it, and what the loader starts from.
    pub const UNSET: Self = Self {
        offsets: Offsets::UNKNOWN,
        tracepoint: TracepointLayout::UNKNOWN,
        registers: Registers::OF_THIS_MACHINE,
        filters: Filters::NONE,
        conns_mask: 0,
        shards_log2: 0,
        cookies: 0,
        time_wait_hook: 0,
        hold_preemption: 0,
        trace: 0,
        stack_interpreters: 0,
        stack_native: 0,
    };
}

/// Placeholders for functions of the kernel that are no helpers: numbers that no helper has. The loader puts the running
/// kernel's in their place, where it tells the programs to call them.
pub mod kernel_function {
    /// `bpf_preempt_disable()`, since 6.10.
    pub const PREEMPT_DISABLE: usize = 0x7063_0001;
    /// `bpf_preempt_enable()`.
    pub const PREEMPT_ENABLE: usize = 0x7063_0002;
    /// `bpf_local_irq_save(&mut flags)`, since 6.14.
    pub const LOCAL_IRQ_SAVE: usize = 0x7063_0003;
    /// `bpf_local_irq_restore(&mut flags)`.
    pub const LOCAL_IRQ_RESTORE: usize = 0x7063_0004;

    /// Each by its name in the kernel's types.
    pub const ALL: [(usize, &str); 4] = [
        (PREEMPT_DISABLE, "bpf_preempt_disable"),
        (PREEMPT_ENABLE, "bpf_preempt_enable"),
        (LOCAL_IRQ_SAVE, "bpf_local_irq_save"),
        (LOCAL_IRQ_RESTORE, "bpf_local_irq_restore"),
    ];
}

/// A port in `FILTER_PORTS`: the role in the high half, the port in the low half.
pub const fn port_filter_key(role: crate::flow::Role, port: u16) -> u32 {
    (role as u32) << 16 | port as u32
}
