// Prints Khronos' glTF validator's report on each file, as JSON: node validate.mjs FILE...
import { readFileSync } from "node:fs";
import validator from "gltf-validator";

const reports = [];
for (const file of process.argv.slice(2)) {
  const { issues, info } = await validator.validateBytes(new Uint8Array(readFileSync(file)), { maxIssues: 50 });
  reports.push({ file, errors: issues.numErrors, warnings: issues.numWarnings, messages: issues.messages, info });
}
console.log(JSON.stringify(reports));
