//! The metrics listener: one request per connection.

use crate::support;

use podop::config::Mode;
use support::world::World;

#[test]
fn what_follows_the_request_of_a_monitor_is_ignored() {
    let mut world = World::with_alias(&[]);
    let monitor = world.client(Mode::Admin);
    world.block(monitor, true);
    world.send(monitor, b"GET /healthz HTTP/1.1\r\nHost: podop\r\n\r");
    world.send(monitor, b"\nGET /readyz HTTP/1.1\r\n\r\n");
    let output = String::from_utf8_lossy(world.engine.output(monitor)).into_owned();
    assert_eq!(output.matches("HTTP/1.1 200 OK").count(), 1, "{output}");
    world.block(monitor, false);
    assert_eq!(world.closed, [monitor]);
}
