// Uses the client that is generated from /openapi.json: `node client.ts URL PHOTO`. It prints what
// it got as JSON.
import { readFileSync } from "node:fs";
import { Configuration, EditApi, ResponseError, ServerApi } from "./generated/index.ts";

const [url, path] = process.argv.slice(2);
const configuration = new Configuration({ basePath: url });
const edits = new EditApi(configuration);
const server = new ServerApi(configuration);
const photo = [new Blob([readFileSync(path)])];

const base64 = async (blob: Blob) => Buffer.from(await blob.arrayBuffer()).toString("base64");

const domain = await server.domain();
const edited = await edits.edit({ photo, target: ["a sad face"], strength: [3] });
const latent = await edits.invert({ photo });
const fast = await edits.edit({ latent, target: ["a sad face"], strength: [3], format: "png" });
const sheet = await edits.sweep({ latent, preset: [domain.presets[0].title], steps: 2 });
let problem;
try {
    await edits.edit({ photo, target: [""] });
} catch (error) {
    problem = await (error as ResponseError).response.json();
}
console.log(
    JSON.stringify({
        domain: domain.name,
        edited: await base64(edited),
        fast: await base64(fast),
        sheet: sheet.type,
        problem: problem.name,
    }),
);
