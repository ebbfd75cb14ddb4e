// The ordinary paths of dockerode and Testcontainers against the engine at DOCKER_HOST; ends badly where one is
// not as with Docker's.
const assert = require("node:assert");
const { Writable } = require("node:stream");

const socketPath = process.env.DOCKER_HOST.replace("unix://", "");

function gather() {
  const chunks = [];
  const stream = new Writable({
    write(chunk, _, done) {
      chunks.push(chunk);
      done();
    },
  });
  return { stream, text: () => Buffer.concat(chunks).toString() };
}

async function dockerode() {
  const Docker = require("dockerode");
  const docker = new Docker({ socketPath });
  assert.ok((await docker.listImages()).length > 0);
  const output = gather();
  const [ended, once] = await docker.run("busybox", ["echo", "hello"], output.stream, { name: "node-once" });
  assert.strictEqual(ended.StatusCode, 0);
  assert.match(output.text(), /hello/);
  await once.remove();

  const stay = await docker.createContainer({ Image: "busybox", Cmd: ["sleep", "600"], name: "node-stay" });
  await stay.start();
  const exec = await stay.exec({
    Cmd: ["sh", "-c", "echo out; echo err >&2; exit 4"],
    AttachStdout: true,
    AttachStderr: true,
  });
  const stream = await exec.start({ hijack: true, stdin: false });
  const [out, err] = [gather(), gather()];
  stay.modem.demuxStream(stream, out.stream, err.stream);
  await new Promise((resolve) => stream.on("end", resolve));
  assert.deepStrictEqual([out.text(), err.text()], ["out\n", "err\n"]);
  assert.strictEqual((await exec.inspect()).ExitCode, 4);
  assert.ok((await stay.stats({ stream: false })).memory_stats.usage > 0);

  const network = await docker.createNetwork({ Name: "node-net" });
  await network.connect({ Container: stay.id });
  assert.ok("node-net" in (await stay.inspect()).NetworkSettings.Networks);
  await network.disconnect({ Container: stay.id });
  await network.remove();
  await docker.createVolume({ Name: "node-vol" });
  await docker.getVolume("node-vol").remove();
  await stay.kill();
  await stay.remove();
  await assert.rejects(stay.inspect(), (error) => error.statusCode === 404);
}

async function testcontainers() {
  const { GenericContainer, Network, Wait } = require("testcontainers");
  const network = await new Network().start();
  const server = await new GenericContainer("busybox")
    .withCommand(["sh", "-c", "echo ready; exec busybox nc -ll -p 80 -e busybox echo hello"])
    .withNetwork(network)
    .withNetworkAliases("server")
    .withExposedPorts(80)
    .withWaitStrategy(Wait.forLogMessage("ready"))
    .start();
  assert.ok(server.getMappedPort(80) > 0);
  const client = await new GenericContainer("busybox")
    .withCommand(["sleep", "600"])
    .withNetwork(network)
    .start();
  const { exitCode, output } = await client.exec(["busybox", "nc", "server", "80"]);
  assert.deepStrictEqual([exitCode, output.trim()], [0, "hello"]);
  await client.copyContentToContainer([{ content: "given", target: "/given" }]);
  assert.strictEqual((await client.exec(["cat", "/given"])).output.trim(), "given");
  await client.stop();
  await server.stop();
  await network.stop();
}

const client = { dockerode, testcontainers }[process.env.COVE_CLIENT];
client().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
