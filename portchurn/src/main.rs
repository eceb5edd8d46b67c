//! Stub.
use portchurn::live::*;
fn main() {
    let o = loader::Options {
        filters: portchurn_common::settings::Filters::NONE,
        filter_tgids: vec![],
        filter_ports: vec![],
        trace: false,
        forced: std::env::args().skip(1).map(|a| a.parse().unwrap()).collect(),
        no_btf: std::env::var("NOBTF").is_ok(),
        wanted: Default::default(),
        host: sizes::Host { cpus: 2, tcp_sockets: 100 },
    };
    let t = std::time::Instant::now();
    let mut c = match collector::Collector::attach(&o) {
        Ok(c) => c,
        Err(e) => {
            println!("{e:#}");
            return;
        }
    };
    println!("attached in {:?}", t.elapsed());
    for h in c.hooks() {
        println!("{} {:?} {:?}", h.hook.name, h.tier, h.reason);
    }
    for i in 1..4 {
        std::thread::sleep(std::time::Duration::from_secs(1));
        let s = c.sample(i * 1000000000).unwrap();
        for (k, v) in &s.churn {
            println!(
                "{k:?} att {} op {} acc {} cl {:?} f {:?} tw {} max {}",
                v.attempts, v.opened, v.accepted, v.closed, v.failed_by, v.time_wait, v.lifetime_max_us
            );
        }
        for p in &s.processes {
            println!("{p:?}");
        }
        println!("{:?} {:?} {:?}", s.exits, s.lost, s.own_cost);
    }
}
