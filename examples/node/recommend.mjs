// Recommends the next items after a session with a standalone model, as `hiersrec export … --standalone` writes it.

import { parseArgs } from "node:util";
import * as ort from "onnxruntime-node";

const USAGE = `usage: node recommend.mjs [-k COUNT] MODEL.onnx [--] [ITEM]...

Prints the COUNT (20) best items and their scores after a session: ITEM ids, the oldest first.`;

/** Parses the arguments of the command; throws if they are wrong. */
function argumentsOf(given) {
  const { values, positionals } = parseArgs({
    args: given,
    allowPositionals: true,
    options: { k: { type: "string", short: "k", default: "20" }, help: { type: "boolean", short: "h" } },
  });
  if (values.help) return { help: true };
  const [path, ...ids] = positionals;
  if (path === undefined) throw new Error("name the model");
  if (!/^[1-9][0-9]{0,8}$/.test(values.k)) throw new Error(`-k must be an integer ≥ 1, got ${values.k}`);
  return { path, ids, k: Number(values.k) };
}

/** Makes a batch of one session, with ids of the model's type: int64 is BigInt in JavaScript. */
function sessionTensor(type, ids) {
  if (type === "string") return new ort.Tensor("string", ids, [1, ids.length]);
  for (const id of ids) {
    if (!/^-?[0-9]+$/.test(id)) throw new Error(`item ids of this model are integers, got ${id}`);
  }
  const fitting = ids.map(BigInt).filter((id) => BigInt.asIntN(64, id) === id); // no item has an id beyond int64
  return new ort.Tensor("int64", BigInt64Array.from(fitting), [1, fitting.length]);
}

try {
  const { help, path, ids, k } = argumentsOf(process.argv.slice(2));
  if (help) {
    console.log(USAGE);
  } else {
    const model = await ort.InferenceSession.create(path); // once; any number of requests
    const { type } = model.inputMetadata.find((input) => input.name === "session");
    const { items, scores, known } = await model.run({
      session: sessionTensor(type, ids),
      k: new ort.Tensor("int64", [BigInt(k)], [1]),
    });
    if (known.data[0] === 0n) console.error("no item of the session is in the catalog: these are the most popular items, with their clicks");
    items.data.forEach((item, rank) => console.log(`${item}\t${scores.data[rank]}`));
  }
} catch (error) {
  console.error(`Error: ${error.message}\n\n${USAGE}`);
  process.exitCode = 1;
}
