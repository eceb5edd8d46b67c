//! The layout of the classic tracepoint, from its `format` file. It differs between kernels (`protocol` grew from one
//! byte to two in 5.6, some pad the common header), so it is read, never assumed.

use std::io::ErrorKind;

use anyhow::{Context as _, Result, bail};
use portchurn_common::settings::TracepointLayout;

const ROOTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Layout of `sock:inet_sock_set_state` on this kernel.
pub fn state_change_layout() -> Result<TracepointLayout> {
    for root in ROOTS {
        let path = format!("{root}/events/sock/inet_sock_set_state/format");
        match std::fs::read_to_string(&path) {
            Ok(text) => return parse(&text).context("read the format of sock:inet_sock_set_state"),
            Err(err) if err.kind() == ErrorKind::PermissionDenied => {
                return Err(err).with_context(|| format!("{path} may not be read; try: sudo"));
            }
            Err(_) => {}
        }
    }
    bail!("tracefs is not mounted; try: mount -t tracefs tracefs {}", ROOTS[0])
}

fn parse(text: &str) -> Result<TracepointLayout> {
    let offset = |name: &str| field(text, name).map(|(offset, _)| offset);
    let (protocol, protocol_size) = field(text, "protocol")?;
    Ok(TracepointLayout {
        skaddr: offset("skaddr")?,
        oldstate: offset("oldstate")?,
        newstate: offset("newstate")?,
        sport: offset("sport")?,
        dport: offset("dport")?,
        family: offset("family")?,
        protocol,
        protocol_size,
        saddr_v6: offset("saddr_v6")?,
        daddr_v6: offset("daddr_v6")?,
    })
}

/// Offset and size of a field. A line reads `field:__u16 sport; offset:24; size:2; signed:0;`, with tabs between.
fn field(text: &str, name: &str) -> Result<(u32, u32)> {
    for line in text.lines() {
        let mut parts = line.trim().split(';').map(str::trim);
        let Some(declaration) = parts.next().and_then(|part| part.strip_prefix("field:")) else { continue };
        let declared = declaration.split('[').next().and_then(|text| text.rsplit([' ', '*']).next());
        if declared != Some(name) {
            continue;
        }
        let mut number = |prefix: &str| {
            let value = parts.next().and_then(|part| part.strip_prefix(prefix));
            value
                .and_then(|value| value.parse().ok())
                .with_context(|| format!("{name}: no {prefix} in '{line}'"))
        };
        return Ok((number("offset:")?, number("size:")?));
    }
    bail!("no field {name}")
}

#[cfg(test)]
mod tests {
    use super::parse;

    const LINUX_6_1: &str = "\
name: inet_sock_set_state
ID: 1394
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:int common_pid;	offset:4;	size:4;	signed:1;

	field:const void * skaddr;	offset:8;	size:8;	signed:0;
	field:int oldstate;	offset:16;	size:4;	signed:1;
	field:int newstate;	offset:20;	size:4;	signed:1;
	field:__u16 sport;	offset:24;	size:2;	signed:0;
	field:__u16 dport;	offset:26;	size:2;	signed:0;
	field:__u16 family;	offset:28;	size:2;	signed:0;
	field:__u16 protocol;	offset:30;	size:2;	signed:0;
	field:__u8 saddr[4];	offset:32;	size:4;	signed:0;
	field:__u8 daddr[4];	offset:36;	size:4;	signed:0;
	field:__u8 saddr_v6[16];	offset:40;	size:16;	signed:0;
	field:__u8 daddr_v6[16];	offset:56;	size:16;	signed:0;

print fmt: \"family=%s\", REC->family
";

    #[test]
    fn offsets_are_those_of_the_file() {
        let layout = parse(LINUX_6_1).unwrap();
        assert_eq!((layout.skaddr, layout.newstate, layout.sport), (8, 20, 24));
        assert_eq!((layout.protocol, layout.protocol_size), (30, 2));
        assert_eq!((layout.saddr_v6, layout.daddr_v6), (40, 56));
    }

    #[test]
    fn a_one_byte_protocol_is_noticed() {
        let old = LINUX_6_1.replace("__u16 protocol;	offset:30;	size:2", "__u8 protocol;	offset:30;	size:1");
        assert_eq!(parse(&old).unwrap().protocol_size, 1);
    }

    #[test]
    fn a_missing_field_is_an_error() {
        let without = LINUX_6_1.replace("skaddr", "other");
        assert!(parse(&without).unwrap_err().to_string().contains("skaddr"));
    }
}
