//! Networks of one's own: names, addresses, who reaches whom, and what happens while containers run.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use support::daemon::{Daemon, of_each_kind};

fn nft(daemon: &Daemon, args: &[&str]) -> Result<Output> {
    Ok(daemon.in_network("nft")?.args(args).output()?)
}

/// A container that stays, on networks as the flags say.
fn stay(daemon: &Daemon, name: &str, flags: &[&str]) -> Result<String> {
    daemon.docker_ok(&[&["run", "-d", "--name", name], flags, &["busybox", "sleep", "600"]].concat())
}

/// What a container's resolver says, addresses only, sorted.
fn look_up(daemon: &Daemon, from: &str, name: &str) -> Result<Vec<String>> {
    let said = daemon.docker(&["exec", from, "busybox", "nslookup", name])?;
    // The first address is the resolver's own.
    let mut found: Vec<String> = said
        .out
        .lines()
        .filter_map(|line| {
            line.strip_prefix("Address: ").or_else(|| line.split_once("name = ").map(|(_, name)| name))
        })
        .map(str::to_owned)
        .collect();
    found.sort();
    Ok(found)
}

fn address(daemon: &Daemon, name: &str, network: &str) -> Result<String> {
    let format = format!("{{{{(index .NetworkSettings.Networks {network:?}).IPAddress}}}}");
    daemon.docker_ok(&["inspect", "-f", &format, name])
}

fn reaches(daemon: &Daemon, from: &str, to: &str) -> Result<bool> {
    Ok(daemon.docker(&["exec", from, "busybox", "ping", "-c", "1", "-W", "1", to])?.code == 0)
}

#[test]
fn containers_of_a_network_find_each_other_by_name() -> Result<()> {
    of_each_kind(|mut daemon| {
        daemon.docker_ok(&["network", "create", "web"])?;
        daemon.docker_ok(&["network", "create", "other"])?;
        stay(&daemon, "one", &["--network", "web", "--network-alias", "both", "--link", "two:sql"])?;
        let id =
            stay(&daemon, "two", &["--network", "web", "--network-alias", "both", "--hostname", "deux"])?;
        stay(&daemon, "far", &["--network", "other"])?;
        let (one, two) = (address(&daemon, "one", "web")?, address(&daemon, "two", "web")?);
        for name in ["two", "TWO", "two.web", "sql", "deux", id.get(..12).context("no id")?] {
            ensure!(look_up(&daemon, "one", name)? == [two.as_str()], "{name}");
        }
        ensure!(look_up(&daemon, "two", "sql")?.is_empty(), "a link is known to others");
        let mut both = vec![one.clone(), two.clone()];
        both.sort();
        ensure!(look_up(&daemon, "one", "both")? == both);
        ensure!(look_up(&daemon, "one", &two)? == ["two.web"], "the other way round");
        ensure!(look_up(&daemon, "one", "far")?.is_empty(), "other networks' names are known");
        ensure!(reaches(&daemon, "one", "two")?);
        ensure!(!reaches(&daemon, "one", &address(&daemon, "far", "other")?)?, "networks are not apart");
        // What is asked over TCP is answered too.
        let script = "printf '\\000\\031\\000\\007\\001\\000\\000\\001\\000\\000\\000\\000\\000\\000\\003two\\003web\\000\\000\\001\\000\\001' \
                  | busybox nc -w 2 127.0.0.11 53 | busybox hexdump -e '1/1 \"%d.\"'";
        let said = daemon.docker_ok(&["exec", "one", "sh", "-c", script])?;
        ensure!(said.trim_end_matches('.').ends_with(&two), "{said}");

        // A container has a server at port 53 of its own, beside the resolver.
        let script = "busybox nc -l -p 53 -s 0.0.0.0 </dev/null & sleep 0.2; busybox nslookup two";
        let said = daemon.docker_ok(&["run", "--rm", "--network", "web", "busybox", "sh", "-c", script])?;
        ensure!(said.contains(&two), "{said}");

        daemon.crash()?;
        daemon.launch()?;
        ensure!(look_up(&daemon, "one", "both")? == both, "after a crash of the daemon");
        daemon.docker_ok(&["rename", "two", "second"])?;
        ensure!(
            look_up(&daemon, "one", "second")? == [two.as_str()]
                && look_up(&daemon, "one", "two")?.is_empty()
        );
        daemon.docker_ok(&["rm", "-f", "second"])?;
        ensure!(look_up(&daemon, "one", "both")? == [one.as_str()]);
        ensure!(look_up(&daemon, "one", "two")?.is_empty());
        // An address that was given back is not that of the next.
        stay(&daemon, "three", &["--network", "web"])?;
        ensure!(address(&daemon, "three", "web")? != one);
        Ok(())
    })
}

#[test]
fn a_running_container_is_put_on_networks_and_taken_off() -> Result<()> {
    of_each_kind(|mut daemon| {
        let ok = |daemon: &Daemon, args: &[&str]| daemon.docker_ok(args);
        ok(&daemon, &["network", "create", "--subnet", "10.81.7.0/24", "front"])?;
        ok(&daemon, &["network", "create", "--subnet", "10.81.8.0/24", "--internal", "back"])?;
        stay(&daemon, "app", &["-p", "127.0.0.1::80"])?;
        stay(&daemon, "db", &["--network", "back"])?;
        let routes = |daemon: &Daemon| daemon.docker_ok(&["exec", "app", "busybox", "ip", "route"]);
        let before = routes(&daemon)?;
        ensure!(!before.contains("10.81."), "{before}");
        ok(&daemon, &["network", "connect", "--alias", "api", "--ip", "10.81.8.77", "back", "app"])?;
        ensure!(reaches(&daemon, "app", "db")? && reaches(&daemon, "db", "api")?);
        ensure!(address(&daemon, "app", "back")? == "10.81.8.77");
        ensure!(
            routes(&daemon)?.lines().any(|line| before.lines().next() == Some(line)),
            "the way out has changed"
        );
        ensure!(ok(&daemon, &["exec", "app", "cat", "/etc/hosts"])?.contains("10.81.8.77\t"));
        // Of the networks with a way out, the first by priority has it.
        ok(&daemon, &["network", "connect", "--gw-priority", "1", "front", "app"])?;
        ensure!(routes(&daemon)?.contains("default via 10.81.7.1"), "{}", routes(&daemon)?);
        let port = ok(&daemon, &["port", "app", "80/tcp"])?;
        daemon.crash()?;
        daemon.launch()?;
        ensure!(ok(&daemon, &["port", "app", "80/tcp"])? == port);
        ensure!(reaches(&daemon, "app", "db")?);
        ok(&daemon, &["network", "disconnect", "front", "app"])?;
        ensure!(routes(&daemon)?.contains("10.81.8.0/24") && !routes(&daemon)?.contains("10.81.7."));
        ensure!(
            routes(&daemon)?.lines().any(|line| before.lines().next() == Some(line)),
            "{}",
            routes(&daemon)?
        );
        ok(&daemon, &["network", "disconnect", "back", "app"])?;
        ensure!(routes(&daemon)? == before, "{}", routes(&daemon)?);
        ensure!(!ok(&daemon, &["exec", "app", "cat", "/etc/hosts"])?.contains("10.81."));
        // Nobody leaves an internal network, and nobody asks for others there.
        ensure!(
            ok(&daemon, &["exec", "db", "busybox", "ip", "route"])?.trim()
                == "10.81.8.0/24 dev eth0 scope link  src 10.81.8.2"
        );

        // What was connected while it did not run is there when it does.
        ok(&daemon, &["create", "--name", "late", "busybox", "busybox", "ip", "-o", "addr"])?;
        ok(&daemon, &["network", "connect", "front", "late"])?;
        let said = ok(&daemon, &["start", "-a", "late"])?;
        ensure!(said.contains("eth0") && said.contains("eth1") && said.contains("10.81.7."), "{said}");
        // Twice, or where it is not, is refused.
        for args in [
            &["connect", "back", "db"][..],
            &["disconnect", "front", "db"],
            &["connect", "nosuch", "db"],
            &["connect", "host", "db"],
        ] {
            let said = daemon.docker(&[&["network"], args].concat())?;
            ensure!(said.code == 1 && said.err.contains("Error response"), "{args:?}: {said:?}");
        }
        Ok(())
    })
}

/// An interface that is the computer's own stays so; Docker would take it for a network's.
fn a_bridge_of_others_is_not_taken(daemon: &Daemon) -> Result<()> {
    let theirs = format!("br{}", std::process::id());
    let ip = |args: &[&str]| -> Result<bool> { Ok(daemon.in_network("ip")?.args(args).status()?.success()) };
    ensure!(ip(&["link", "add", &theirs, "type", "bridge"])?);
    let name = format!("com.docker.network.bridge.name={theirs}");
    daemon.docker_ok(&["network", "create", "-o", &name, "grab"])?;
    let said = daemon.docker(&["run", "--rm", "--network", "grab", "busybox", "true"])?;
    ensure!(said.code != 0 && said.err.contains("is not Cove's"), "{said:?}");
    daemon.docker_ok(&["network", "rm", "grab"])?;
    ensure!(ip(&["link", "del", &theirs])?, "it was taken away");
    Ok(())
}

#[test]
fn addresses_are_those_asked_for_or_refused() -> Result<()> {
    of_each_kind(|daemon| {
        daemon.docker_ok(&[
            "network",
            "create",
            "--subnet",
            "10.82.0.0/24",
            "--ip-range",
            "10.82.0.128/30",
            "--gateway",
            "10.82.0.9",
            "--aux-address",
            "router=10.82.0.129",
            "--label",
            "tier=test",
            "net",
        ])?;
        let one = stay(&daemon, "one", &["--network", "net"]).and_then(|_| address(&daemon, "one", "net"))?;
        ensure!(one == "10.82.0.128", "{one}");
        stay(
            &daemon,
            "two",
            &["--network", "net", "--ip", "10.82.0.50", "--mac-address", "02:00:00:00:00:07"],
        )?;
        ensure!(address(&daemon, "two", "net")? == "10.82.0.50");
        ensure!(
            daemon.docker_ok(&["exec", "two", "cat", "/sys/class/net/eth0/address"])? == "02:00:00:00:00:07"
        );
        ensure!(
            daemon.docker_ok(&["exec", "two", "busybox", "ip", "route"])?.contains("default via 10.82.0.9")
        );
        let refused = |args: &[&str], expected: &str| -> Result<()> {
            let said = daemon.docker(args)?;
            ensure!(said.code != 0 && said.err.contains(expected), "{args:?}: {said:?}");
            Ok(())
        };
        let run = |ip: &'static str| ["run", "--rm", "--network", "net", "--ip", ip, "busybox", "true"];
        refused(&run("10.82.0.50"), "Address already in use")?;
        refused(&run("10.82.0.9"), "Address already in use")?;
        refused(&run("10.83.0.5"), "contain the IP address 10.83.0.5")?;
        refused(&run("fd00::5"), "invalid IPv4 address")?;
        refused(
            &["run", "--rm", "--ip", "172.17.0.9", "busybox", "true"],
            "user specified IP address is supported",
        )?;
        refused(&["run", "--rm", "--network", "nosuch", "busybox", "true"], "network nosuch not found")?;
        refused(&["network", "create", "--subnet", "10.82.0.128/25", "over"], "Pool overlaps")?;
        refused(&["network", "create", "net"], "network with name net already exists")?;
        refused(&["network", "create", "-d", "overlay", "x"], "swarm")?;
        if daemon.is_cove() {
            // Docker takes any name, and passes over options that it does not know.
            refused(&["network", "create", "../etc"], "invalid network name")?;
            refused(
                &["network", "create", "-o", "com.docker.network.frob=1", "x"],
                "not supported for driver bridge",
            )?;
        }
        refused(&["network", "create", "--subnet", "10.84.0.1/24", "x"], "10.84.0.0/24")?;
        refused(&["network", "rm", "net"], "has active endpoints (name:\"")?;
        refused(&["network", "rm", "bridge"], "pre-defined network")?;
        refused(&["network", "inspect", "nosuch"], "network nosuch not found")?;
        if daemon.is_cove() {
            a_bridge_of_others_is_not_taken(&daemon)?;
        }
        // All of the range is given out at some time, and the next is told so.
        stay(&daemon, "three", &["--network", "net"])?;
        stay(&daemon, "four", &["--network", "net"])?;
        refused(&["run", "--rm", "--network", "net", "busybox", "true"], "no available IPv4 addresses")?;

        let inspected =
            daemon.docker_ok(&["network", "inspect", "net", "-f", "{{len .Containers}} {{.Labels.tier}}"])?;
        ensure!(inspected == "4 test", "{inspected}");
        ensure!(daemon.cove(&["network", "ls", "--filter", "label=tier=test", "-q"])?.out.len() == 12);
        let names = daemon.docker_ok(&["ps", "--filter", "network=net", "--format", "{{.Names}}"])?;
        ensure!(names.lines().count() == 4, "{names}");
        daemon.docker_ok(&["rm", "-f", "one", "two", "three", "four"])?;
        ensure!(daemon.docker_ok(&["network", "prune", "-f"])?.contains("net"));
        ensure!(daemon.docker(&["network", "inspect", "net"])?.code == 1);
        Ok(())
    })
}

#[test]
fn containers_speak_ipv6_where_their_network_does() -> Result<()> {
    of_each_kind(|daemon| {
        daemon.docker_ok(&["network", "create", "--ipv6", "--subnet", "fd00:c0e:7::/64", "six"])?;
        stay(&daemon, "one", &["--network", "six", "--ip6", "fd00:c0e:7::9"])?;
        let script = "exec busybox nc -ll -p 80 -e busybox echo six";
        let run =
            ["run", "-d", "--name", "two", "--network", "six", "-p", "80", "busybox", "sh", "-c", script];
        daemon.docker_ok(&run)?;
        let two = daemon.docker_ok(&[
            "inspect",
            "-f",
            "{{.NetworkSettings.Networks.six.GlobalIPv6Address}}",
            "two",
        ])?;
        ensure!(two == "fd00:c0e:7::2", "{two}");
        ensure!(look_up(&daemon, "one", "two")?.contains(&two));
        let said =
            daemon.docker(&["exec", "two", "busybox", "ping6", "-c", "1", "-W", "1", "fd00:c0e:7::9"])?;
        ensure!(said.code == 0, "{said:?}");
        let ports = daemon.docker_ok(&["port", "two", "80/tcp"])?;
        let six = ports.lines().find_map(|line| line.strip_prefix("[::]:")).context(ports.clone())?;
        ensure!(ports.contains(&format!("0.0.0.0:{six}")), "{ports}");
        // A published port at an address of this computer that is no loopback's: the bridge's own.
        let hear = || -> Result<String> {
            use std::io::Read;
            let host = if daemon.is_rootless() { "::1" } else { "fd00:c0e:7::1" };
            let to = format!("[{host}]:{six}").parse()?;
            let mut stream = std::net::TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
            let mut said = String::new();
            stream.read_to_string(&mut said)?;
            Ok(said)
        };
        daemon.wait_for("the server", || hear().is_ok_and(|said| said.trim() == "six"))?;
        let without = daemon.docker_ok(&["run", "--rm", "busybox", "cat", "/proc/net/if_inet6"])?;
        ensure!(!without.contains("eth0"), "{without}");
        Ok(())
    })
}

#[test]
fn rules_that_somebody_flushes_come_back() -> Result<()> {
    of_each_kind(|daemon| {
        if !daemon.is_cove() {
            support::absent("it is of Cove alone");
            return Ok(());
        }
        daemon.docker_ok(&["network", "create", "net"])?;
        stay(&daemon, "one", &["--network", "net", "-p", "127.0.0.1::80"])?;
        let bridge = format!("cv-{}", daemon.docker_ok(&["network", "ls", "-q", "--filter", "name=net"])?);
        let table = || -> Result<Option<String>> {
            let tables =
                String::from_utf8_lossy(&nft(&daemon, &["list", "tables", "inet"])?.stdout).into_owned();
            for name in tables.lines().filter_map(|line| line.strip_prefix("table inet ")) {
                let text = String::from_utf8_lossy(&nft(&daemon, &["list", "table", "inet", name])?.stdout)
                    .into_owned();
                if text.contains(&bridge) {
                    return Ok(Some(name.to_owned()));
                }
            }
            Ok(None)
        };
        let name = table()?.context("there is no table")?;
        let rules = || -> Result<String> {
            Ok(String::from_utf8(nft(&daemon, &["list", "table", "inet", &name])?.stdout)?)
        };
        let before = rules()?;
        ensure!(before.contains("127.0.0.1 . tcp"), "{before}");
        let flushes: [&[&str]; 4] = [
            &["delete", "table", "inet", &name],
            &["flush", "chain", "inet", &name, "forward"],
            &["flush", "map", "inet", &name, "one4"],
            &["flush", "table", "inet", &name],
        ];
        for flush in flushes {
            ensure!(nft(&daemon, flush)?.status.success(), "{flush:?}");
            daemon
                .wait_for("the rules", || rules().is_ok_and(|now| now == before))
                .context(format!("{flush:?}"))?;
        }
        daemon.docker_ok(&["rm", "-f", "one"])?;
        daemon.docker_ok(&["network", "rm", "net"])?;
        ensure!(table()?.is_none());
        ensure!(!daemon.in_network("ip")?.args(["link", "show", &bridge]).output()?.status.success());
        Ok(())
    })
}

#[test]
fn macvlan_and_ipvlan_join_containers_without_a_bridge() -> Result<()> {
    of_each_kind(|daemon| {
        for (driver, subnet) in [("macvlan", "10.85.1.0/24"), ("ipvlan", "10.85.2.0/24")] {
            let made = daemon.docker(&["network", "create", "-d", driver, "--subnet", subnet, driver])?;
            if made.err.contains("operation not supported") {
                support::absent("this kernel has no dummy interfaces, which Docker makes parents of");
                return Ok(());
            }
            ensure!(made.code == 0, "{made:?}");
            let said = daemon.docker(&[
                "run",
                "-d",
                "--name",
                driver,
                "--network",
                driver,
                "busybox",
                "sleep",
                "60",
            ])?;
            if said.err.contains("not supported") {
                support::absent(&format!("this kernel has no {driver}"));
                continue;
            }
            ensure!(said.code == 0, "{said:?}");
            stay(&daemon, &format!("{driver}-two"), &["--network", driver])?;
            ensure!(reaches(&daemon, driver, &format!("{driver}-two"))?, "{driver}");
        }
        let said = daemon.docker(&[
            "network",
            "create",
            "-d",
            "macvlan",
            "--subnet",
            "10.85.3.0/24",
            "-o",
            "parent=nosuch0",
            "lost",
        ])?;
        ensure!(said.code == 0, "{said:?}");
        let said = daemon.docker(&["run", "--rm", "--network", "lost", "busybox", "true"])?;
        let expected =
            if daemon.is_rootless() { "none of the computer's interfaces" } else { "no such interface" };
        ensure!(said.code == 125 && said.err.contains(expected), "{said:?}");
        Ok(())
    })
}
