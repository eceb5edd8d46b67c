//! Interpreters whose frames are not read: their connects are counted to the last, and no line is blamed for them, neither the
//! interpreter's own code nor that of its extensions. How many there are, the script says.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use portchurn_tests::harness::folder::Folder;
use portchurn_tests::harness::programs::bound;
use portchurn_tests::harness::{check, check_where_possible, servers, sites};

/// Connects of a script.
const TIMES: u64 = 7;

const BASH: &str = "
for ((done = 0; done < $2; done++)); do exec 3<>/dev/tcp/127.0.0.1/$1; exec 3>&-; done
echo $done
read
";
const NODE: &str = "
const connect = (left) => left == 0
    ? console.log(process.argv[3])
    : require('net').connect(process.argv[2], '127.0.0.1', function () { this.end(() => connect(left - 1)); });
connect(process.argv[3]);
process.stdin.resume();
";
const PERL: &str = "
use Socket;
my ($done, $end) = (0, pack_sockaddr_in($ARGV[0], INADDR_LOOPBACK));
while ($done < $ARGV[1]) {
    socket(my $near, PF_INET, SOCK_STREAM, 0) or die $!;
    connect($near, $end) or die $!;
    close $near;
    $done++;
}
$| = 1;
print \"$done\\n\";
<STDIN>;
";
const PHP: &str = "<?php
for ($done = 0; $done < $argv[2]; $done++) fclose(stream_socket_client(\"tcp://127.0.0.1:$argv[1]\"));
echo \"$done\\n\";
fgets(STDIN);
";
const RUBY: &str = "
require 'socket'
done = 0
ARGV[1].to_i.times { TCPSocket.new('127.0.0.1', ARGV[0].to_i).close; done += 1 }
$stdout.puts done
$stdout.flush
$stdin.gets
";

fn blames_nobody(interpreter: &str, text: &str) -> Result<()> {
    let port = servers::accepting()?;
    let folder = Folder::new()?;
    let script = folder.path().join("script");
    std::fs::write(&script, text).context("write the script")?;
    let mut command = Command::new(servers::program(interpreter)?);
    bound(&mut command);
    let mut tracer = sites::start(port, &[])?;
    let arguments = [port.to_string(), TIMES.to_string()];
    command.arg(&script).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = command.spawn().with_context(|| format!("start {interpreter}"))?;
    let mut said = String::new();
    BufReader::new(running.stdout.take().context("a pipe was asked for")?).read_line(&mut said)?;
    ensure!(said.trim().parse() == Ok(TIMES), "the script did something else: {said}");
    sites::wait_for(&mut tracer, &script.display().to_string(), |destinations| {
        sites::opens_are(destinations, TIMES)?;
        for site in destinations.iter().flat_map(|to| to.sites("open")) {
            ensure!(site.culprit.is_none() && site.called_from.is_none(), "blamed: {site:?}");
            let is_said = site.note.as_deref().is_some_and(|note| note.contains("are not read"));
            ensure!(is_said, "it does not say why: {site:?}");
            ensure!(!site.frames().is_empty(), "nothing of the stack is shown: {site:?}");
        }
        Ok(())
    })?;
    tracer.stop()?;
    drop(running.stdin.take());
    running.wait().context("wait for the script")?;
    Ok(())
}

#[test]
fn of_a_shell_script() {
    check("of_a_shell_script", || blames_nobody("bash", BASH));
}

#[test]
fn of_a_script_in_perl() {
    check("of_a_script_in_perl", || blames_nobody("perl", PERL));
}

#[test]
fn of_a_script_in_php() {
    check("of_a_script_in_php", || blames_nobody("php", PHP));
}

#[test]
fn of_a_script_in_ruby() {
    check("of_a_script_in_ruby", || blames_nobody("ruby", RUBY));
}

#[test]
fn of_a_script_in_node() {
    // No small package has it.
    check_where_possible("of_a_script_in_node", || blames_nobody("node", NODE));
}
