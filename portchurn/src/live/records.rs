//! Ring buffer records → what they say. Every record is checked for its length before it is read.

use portchurn_common::record::{ExitRecord, FlowRecord, FlowSiteRecord, ProcessRecord, RecordKind};

use crate::model::sample::{Process, ProcessId};

/// One record.
pub enum Record {
    /// A process was seen for the first time, or replaced its image.
    Process(Box<Process>, CgroupId, ArgvBytes),
    /// A process ended.
    Exit(ProcessId),
    /// Something happened to a flow.
    Flow(FlowRecord),
    /// Where in the code it happened.
    FlowSite(FlowSiteRecord),
}

/// A cgroup v2 id: the inode of its directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CgroupId(pub u64);

/// Length of the command line in the process, however much of it could be read. Bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ArgvBytes(pub u32);

/// Reads a record; `None` when it is none of ours.
pub fn decode(bytes: &[u8]) -> Option<Record> {
    let kind = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    if kind == RecordKind::Process as u32 {
        let record: ProcessRecord = read(bytes)?;
        let cgroup = CgroupId(record.cgroup_id);
        return Some(Record::Process(Box::new(process(&record)), cgroup, ArgvBytes(record.argv_total)));
    }
    if kind == RecordKind::Exit as u32 {
        let record: ExitRecord = read(bytes)?;
        return Some(Record::Exit(ProcessId { tgid: record.tgid, start_ns: record.start_ns }));
    }
    if kind == RecordKind::Flow as u32 {
        return read(bytes).map(Record::Flow);
    }
    if kind == RecordKind::FlowSite as u32 {
        return read(bytes).map(Record::FlowSite);
    }
    None
}

fn read<T: Copy>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: long enough; the record types are `repr(C)` and consist of integers, for which any bytes will do.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

fn process(record: &ProcessRecord) -> Process {
    let argv_len = (record.argv_len as usize).min(record.argv.len());
    let exe = text(&record.exe);
    Process {
        id: ProcessId { tgid: record.tgid, start_ns: record.start_ns },
        comm: text(&record.comm),
        exe: (!exe.is_empty()).then_some(exe),
        argv: arguments(&record.argv[..argv_len]),
        argv_truncated: record.argv_total > record.argv_len,
        parent_tgid: (record.parent_tgid != 0).then_some(record.parent_tgid),
        parent_comm: Some(text(&record.parent_comm)).filter(|comm| !comm.is_empty()),
        uid: Some(record.uid),
        cgroup: None,
        unit: None,
        container: None,
    }
}

/// Up to the first zero byte; what is not UTF-8 is replaced.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Arguments, each ended by a zero byte. A process that wrote a title over them leaves trailing zeros.
fn arguments(bytes: &[u8]) -> Vec<String> {
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    if end == 0 {
        return Vec::new();
    }
    bytes[..end]
        .split(|&byte| byte == 0)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use portchurn_common::record::{ARGV_LEN, EXE_LEN, ExitRecord, ProcessRecord, RecordKind};

    use super::{Record, arguments, decode};

    fn bytes_of<T: Copy>(record: &T) -> &[u8] {
        // SAFETY: the records have no padding (their sizes are asserted where they are defined).
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(record).cast(), size_of::<T>()) }
    }

    fn record() -> ProcessRecord {
        let mut record = ProcessRecord {
            kind: RecordKind::Process as u32,
            tgid: 7,
            start_ns: 9,
            cgroup_id: 11,
            parent_tgid: 1,
            uid: 1000,
            comm: [0; 16],
            parent_comm: [0; 16],
            exe: [0; EXE_LEN],
            argv_total: 4000,
            argv_len: 15,
            argv: [0; ARGV_LEN],
        };
        record.comm[..7].copy_from_slice(b"python3");
        record.argv[..15].copy_from_slice(b"python3\0sync.py");
        record
    }

    #[test]
    fn a_process_keeps_its_name_and_arguments() {
        let Some(Record::Process(process, cgroup, argv)) = decode(bytes_of(&record())) else {
            panic!("no process")
        };
        assert_eq!((process.id.tgid, process.id.start_ns, cgroup.0, argv.0), (7, 9, 11, 4000));
        assert_eq!(process.argv, ["python3", "sync.py"]);
        assert!(process.argv_truncated);
        assert_eq!((process.exe, process.parent_comm), (None, None), "empty is not known");
    }

    #[test]
    fn a_record_that_is_cut_off_or_unknown_is_refused() {
        assert!(decode(&bytes_of(&record())[..100]).is_none());
        assert!(decode(&[]).is_none());
        assert!(decode(&99u32.to_ne_bytes()).is_none());
        let exit = ExitRecord { kind: RecordKind::Exit as u32, tgid: 7, start_ns: 9 };
        assert!(matches!(decode(bytes_of(&exit)), Some(Record::Exit(id)) if id.tgid == 7));
    }

    #[test]
    fn empty_arguments_in_the_middle_stay() {
        assert_eq!(arguments(b"a\0\0b\0"), ["a", "", "b"]);
        assert_eq!(arguments(b"nginx: worker process\0\0\0\0"), ["nginx: worker process"]);
        assert!(arguments(b"\0\0").is_empty());
    }
}
