"""The ordinary paths of Testcontainers for Python against the engine at DOCKER_HOST; ends badly where one is not as
with Docker's."""
import urllib.request

from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

SERVE = "mkdir -p /www; echo hello > /www/index.html; echo ready; exec busybox httpd -f -p 80 -h /www"

with Network() as network:
    server = (
        DockerContainer("busybox")
        .with_command(["sh", "-c", SERVE])
        .with_network(network)
        .with_network_aliases("server")
        .with_exposed_ports(80)
        .with_env("GREETING", "hello there")
        .waiting_for(LogMessageWaitStrategy("ready"))
    )
    with server, DockerContainer("busybox").with_command(["sleep", "600"]).with_network(network) as client:
        host, port = server.get_container_host_ip(), server.get_exposed_port(80)
        assert int(port) > 0
        with urllib.request.urlopen(f"http://{host}:{port}/", timeout=10) as answer:
            assert answer.read() == b"hello\n"
        said = server.exec(["sh", "-c", "echo $GREETING; exit 3"])
        assert (said.exit_code, said.output) == (3, b"hello there\n"), said
        fetched = client.exec(["busybox", "wget", "-q", "-O", "-", "http://server/"])
        assert (fetched.exit_code, fetched.output) == (0, b"hello\n"), fetched
        out, _ = server.get_logs()
        assert b"ready" in out, out
        wrapped = server.get_wrapped_container()
        assert wrapped.attrs["Config"]["Labels"]["org.testcontainers.lang"] == "python"
