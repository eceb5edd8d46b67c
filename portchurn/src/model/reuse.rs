//! Whether a new connect may take over the port of a TIME_WAIT socket: `tcp_twsk_unique` of net/ipv4/tcp_ipv4.c, as far as
//! it can be known from outside.

use std::net::IpAddr;

use portchurn_common::flow::Address;

use crate::model::sockets::Sysctls;

/// How long a TIME_WAIT must have lasted where the kernel has no setting for it. Milliseconds.
const FIXED_DELAY_MS: u32 = 1000;

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Reuse {
    /// Age from which on the port may be taken over; `None`: never. Seconds.
    pub after_s: Option<f64>,
    /// Why.
    pub because: String,
}

impl Reuse {
    /// For connections between these addresses. `is_inert`: the settings allow it, and yet it was not seen to happen.
    pub fn of(sysctls: &Sysctls, source: Address, remote: Address, is_inert: bool) -> Self {
        let never = |because: &str| Self { after_s: None, because: because.to_owned() };
        let delay_ms = sysctls.tw_reuse_delay_ms.unwrap_or(FIXED_DELAY_MS);
        match sysctls.tw_reuse {
            0 => never("tcp_tw_reuse=0"),
            _ if sysctls.timestamps == 0 => never("tcp_tw_reuse does nothing while tcp_timestamps=0"),
            2 if !is_loopback(source) && !is_loopback(remote) => never("tcp_tw_reuse=2 is for loopback only"),
            _ if is_inert => never("tcp_tw_reuse does nothing here: the peer does not use timestamps"),
            mode => Self {
                after_s: Some(f64::from(delay_ms) / 1000.0),
                because: format!("tcp_tw_reuse={mode}, timestamps on, after {delay_ms} ms"),
            },
        }
    }
}

/// As the kernel tells it: by the addresses alone.
fn is_loopback(address: Address) -> bool {
    IpAddr::from(address).is_loopback()
}

#[cfg(test)]
mod tests {
    use portchurn_common::flow::Address;

    use super::Reuse;
    use crate::model::sockets::Sysctls;

    const LOOPBACK: Address = Address::from_v4([127, 0, 0, 1]);
    const HOST: Address = Address::from_v4([10, 0, 0, 1]);

    fn applies(tw_reuse: u8, timestamps: u8, remote: Address) -> bool {
        let sysctls = Sysctls { tw_reuse, timestamps, ..Sysctls::default() };
        Reuse::of(&sysctls, HOST, remote, false).after_s.is_some()
    }

    #[test]
    fn the_three_modes_with_and_without_timestamps() {
        for (tw_reuse, timestamps, far, near) in [
            (0, 1, false, false),
            (1, 1, true, true),
            (2, 1, false, true),
            (0, 0, false, false),
            (1, 0, false, false),
            (2, 0, false, false),
        ] {
            assert_eq!(applies(tw_reuse, timestamps, HOST), far, "{tw_reuse} {timestamps} far");
            assert_eq!(applies(tw_reuse, timestamps, LOOPBACK), near, "{tw_reuse} {timestamps} near");
        }
    }

    #[test]
    fn the_delay_is_the_kernel_s_own() {
        let sysctls =
            Sysctls { tw_reuse: 1, timestamps: 1, tw_reuse_delay_ms: Some(250), ..Sysctls::default() };
        assert_eq!(Reuse::of(&sysctls, HOST, HOST, false).after_s, Some(0.25));
        assert_eq!(Reuse::of(&sysctls, HOST, HOST, true).after_s, None);
    }
}
