// Uploads a file with tus-js-client: node upload.js ENDPOINT TOKEN FILE PARALLEL. Prints the result as JSON.
import fs from 'node:fs';
import { Upload } from 'tus-js-client';

const [endpoint, token, path, parallel] = process.argv.slice(2);
const print = (result) => process.stdout.write(JSON.stringify(result));
let cid = null;
const upload = new Upload(fs.createReadStream(path), {
  endpoint,
  headers: { authorization: `Bearer ${token}` },
  metadata: { filename: 'tus.bin' },
  chunkSize: 100_000,
  parallelUploads: Number(parallel),
  retryDelays: null,
  onAfterResponse: (request, response) => {
    cid = response.getHeader('storgo-cid') ?? cid;
  },
  onSuccess: () => print({ cid, url: upload.url }),
  onError: (error) => print({ error: String(error), status: error.originalResponse?.getStatus(), body: error.originalResponse?.getBody() }),
});
upload.start();
