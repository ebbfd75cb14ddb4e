"""The ordinary paths of docker-py against the engine at DOCKER_HOST; ends badly where one is not as with Docker's."""
import io
import tarfile

import docker

client = docker.from_env()
assert client.ping() and client.version()["ApiVersion"]

assert client.containers.run("busybox", ["echo", "hello"], remove=True) == b"hello\n"
try:
    client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"], remove=True)
    raise SystemExit("an exit code was lost")
except docker.errors.ContainerError as error:
    assert error.exit_status == 3 and b"bad" in error.stderr, error

stay = client.containers.run("busybox", ["sleep", "600"], detach=True, name="py-stay", ports={"80/tcp": None})
stay.reload()
assert stay.status == "running" and stay.attrs["NetworkSettings"]["Ports"]["80/tcp"], stay.attrs
# Output that comes at once is all there, each stream apart.
for _ in range(20):
    code, (out, err) = stay.exec_run(["sh", "-c", "echo out; echo err >&2; exit 7"], demux=True)
    assert (code, out, err) == (7, b"out\n", b"err\n"), (code, out, err)
code, out = stay.exec_run(["no-such-program"])
assert code == 127 and b"no-such-program" in out, (code, out)
assert stay.stats(stream=False)["pids_stats"]["current"] == 1
assert stay.top()["Processes"]

data = io.BytesIO()
with tarfile.open(fileobj=data, mode="w") as archive:
    entry = tarfile.TarInfo("note")
    entry.size = 4
    archive.addfile(entry, io.BytesIO(b"note"))
assert stay.put_archive("/tmp" if stay.exec_run("test -d /tmp").exit_code == 0 else "/", data.getvalue())
stay.pause()
stay.unpause()
stay.rename("py-other")
assert client.containers.get("py-other").id == stay.id

lines = client.containers.run("busybox", ["sh", "-c", "echo one; echo two"], detach=True)
lines.wait()
assert b"".join(lines.logs(stream=True)) == b"one\ntwo\n"
assert lines.attach(stream=False, logs=True) == b"one\ntwo\n"
lines.remove()

network = client.networks.create("py-net", driver="bridge", labels={"a": "b"})
network.connect(stay, aliases=["me"])
stay.reload()
assert "py-net" in stay.attrs["NetworkSettings"]["Networks"]
assert client.networks.list(filters={"label": "a=b"})[0].id == network.id
network.disconnect(stay)
network.remove()
# What nobody said of the addresses' options is not made up; Docker's command line says there are none.
low = client.api
ipam = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet="10.215.9.0/24")])
for said, wanted in [(ipam, None), ({**ipam, "Options": {}}, {})]:
    made = low.create_network("py-ipam", ipam=said)["Id"]
    assert low.inspect_network(made)["IPAM"]["Options"] == wanted, low.inspect_network(made)
    low.remove_network(made)

volume = client.volumes.create("py-volume")
written = ["sh", "-c", "echo kept > /data/file"]
client.containers.run("busybox", written, volumes={"py-volume": {"bind": "/data", "mode": "rw"}}, remove=True)
read = ["cat", "/data/file"]
assert client.containers.run("busybox", read, volumes={"py-volume": {"bind": "/data"}}, remove=True) == b"kept\n"
volume.remove()

stay.kill()
stay.reload()
assert stay.status == "exited", stay.status
image = stay.commit("py-image", tag="one")
assert "py-image:one" in image.tags
stay.remove()
client.images.remove("py-image:one")
for missing in (lambda: client.containers.get("nobody"), lambda: client.images.get("nothing")):
    try:
        missing()
        raise SystemExit("what is not there was found")
    except docker.errors.NotFound:
        pass
