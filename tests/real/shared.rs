//! What stands between several Podops and several services: the configurations of the manual, run.

use super::support::http::{Backend, Request, Script, response};
use super::support::manual::sample;
use super::support::podop::Podop;
use super::support::server::Server;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Values for all keys but those that begin with `none`.
fn answer(request: &Request) -> Script {
    let key = request.target.rsplit('/').next().unwrap();
    if key.starts_with("none") { response(404, "null") } else { response(200, &format!("\"v-{key}\"")) }
}

fn podop(port: u16) -> Podop {
    let url = format!("http://127.0.0.1:{port}/map/§");
    Podop::start(&["--name", "map", "--type", "url", "--param", &url, "--timeout", "5"])
}

#[test]
#[ignore = "needs Debian's nginx-light; tests/run installs it"]
fn two_podops_share_the_cache_of_nginx_also_while_the_service_is_gone() {
    let service = Backend::start(answer);
    let (address, cache) = (service.address(), tempfile::tempdir().unwrap());
    std::fs::set_permissions(cache.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let site = sample("nginx-cache.conf")
        .replace("/var/cache/nginx/podop", &format!("{}/cache", cache.path().display()))
        .replace("127.0.0.1:8080", &address.to_string())
        .replace("200 60s", "200 1s");
    let nginx = Server::nginx_site(|port| site.replace("127.0.0.1:8090", &format!("127.0.0.1:{port}")));
    let podops = [podop(nginx.port), podop(nginx.port)];
    let asked = |key: &str| service.requests().iter().filter(|request| request.target.ends_with(key)).count();
    for key in ["a", "ü", "b%2Fc"] {
        let answers = podops.each_ref().map(|podop| podop.lookup("map", key));
        assert_eq!(answers[0], answers[1]);
        assert!(answers[0].starts_with("OK v-"), "{answers:?}");
    }
    assert_eq!((asked("/a"), asked("/b%252Fc")), (1, 1), "the second Podop was answered from the cache of the first");
    assert_eq!(podops.each_ref().map(|podop| podop.lookup("map", "none")), ["NOTFOUND ", "NOTFOUND "]);
    assert_eq!(asked("/none"), 2, "misses are not cached");

    drop(service);
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(podops.each_ref().map(|podop| podop.lookup("map", "a")), ["OK v-a", "OK v-a"], "the expired answer");
    for key in ["none", "new"] {
        for podop in &podops {
            let reply = podop.lookup("map", key);
            assert!(reply.starts_with("TEMP map: ") && reply.ends_with("answered 502"), "{reply}");
        }
    }
    let _service = Backend::start_at(address, answer);
    let until = Instant::now() + Duration::from_secs(20);
    while podops[0].lookup("map", "new") != "OK v-new" {
        assert!(Instant::now() < until, "{}", podops[0].lookup("map", "new"));
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
#[ignore = "needs Debian's haproxy; tests/run installs it"]
fn behind_haproxy_no_lookup_fails_when_one_of_two_services_is_killed() {
    let (one, two) = (Backend::start(answer), Backend::start(answer));
    let config = sample("haproxy.cfg")
        .replace("192.0.2.1:8080", &one.address().to_string())
        .replace("192.0.2.2:8080", &two.address().to_string());
    let haproxy = Server::haproxy(|port| config.replace("127.0.0.1:8090", &format!("127.0.0.1:{port}")));
    let podop = podop(haproxy.port);
    podop.look_up_at_once("map", "v-");
    assert!(one.requests().len() > 1_000 && two.requests().len() > 1_000, "both were asked");
    let killed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !killed.load(Ordering::SeqCst) {
                podop.look_up_at_once("map", "v-");
            }
            podop.look_up_at_once("map", "v-");
        });
        std::thread::sleep(Duration::from_millis(200));
        drop(one);
        killed.store(true, Ordering::SeqCst);
    });
    drop(two);
    // 502 until HAProxy has noticed, and then 503: never anything but a fault.
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let reply = podop.lookup("map", "a");
        assert!(reply.starts_with("TEMP map: ") && Instant::now() < until, "{reply}");
        if reply.ends_with("answered 503") {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
