// Shows /api/openapi.json as a page. Text always becomes text nodes: nothing in the document is parsed as HTML.
const make = (name, props = {}, ...children) => {
  const node = Object.assign(document.createElement(name), props);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
};

// Descriptions are Markdown; only code in backticks is rendered.
const prose = (text) => (text || "").split("`").map((part, i) => (i % 2 ? make("code", { textContent: part }) : part));

// A schema in a few lines, in the form of an example.
const shape = (schema, doc, depth = 0) => {
  if (!schema || depth > 5) return "…";
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return shape(doc.components.schemas[name], doc, depth + 1);
  }
  const some = schema.oneOf || schema.anyOf;
  if (some) return some.map((one) => shape(one, doc, depth + 1)).join(" | ");
  if (schema.allOf) return schema.allOf.map((one) => shape(one, doc, depth + 1)).join(" & ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const type = [schema.type].flat().join(" | ");
  if (type.startsWith("array")) return `[${shape(schema.items, doc, depth + 1)}, …]`;
  if (schema.properties) {
    const pad = "  ".repeat(depth + 1);
    const fields = Object.entries(schema.properties).map(([name, field]) => {
      const needed = (schema.required || []).includes(name) ? "" : "?";
      const says = field.description ? `   // ${field.description.split("\n")[0].replaceAll("`", "")}` : "";
      return `${pad}${name}${needed}: ${shape(field, doc, depth + 1)}${says}`;
    });
    return `{\n${fields.join("\n")}\n${"  ".repeat(depth)}}`;
  }
  return type || "any";
};

const contents = (content, doc) => Object.entries(content || {}).map(([kind, { schema }]) => {
  const text = schema && kind === "application/json" ? shape(schema, doc) : "";
  return make("div", {}, make("code", { textContent: kind }), text ? make("pre", { textContent: text, tabIndex: 0 }) : null);
});

const table = (head, rows) => make("table", {},
  make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { textContent: text, scope: "col" })))),
  make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, ...[cell].flat()))))));

const call = (method, path, operation, doc) => {
  const parts = [];
  if (operation.description) parts.push(make("p", {}, ...prose(operation.description)));
  if (operation.parameters?.length) {
    parts.push(table(["Parameter", "In", "Description"], operation.parameters.map((one) => [
      make("code", { textContent: one.name + (one.required ? "" : "?") }), one.in,
      [...prose(one.description), ` (${shape(one.schema, doc)})`],
    ])));
  }
  if (operation.requestBody) parts.push(make("h3", { textContent: "Body" }), ...contents(operation.requestBody.content, doc));
  parts.push(make("h3", { textContent: "Responses" }), table(["Status", "Description"],
    Object.entries(operation.responses).map(([status, answer]) => [
      make("code", { textContent: status }),
      [make("span", {}, ...prose(answer.description)), ...contents(answer.content, doc)],
    ])));
  const details = make("details", {}, make("summary", {},
    make("span", { className: "method", textContent: method.toUpperCase() }),
    make("span", { className: "path", textContent: path }),
    make("span", { className: "says" }, ...prose(operation.summary))), make("div", {}, ...parts));
  details.dataset.text = `${method} ${path} ${operation.summary || ""} ${operation.description || ""}`.toLowerCase();
  return details;
};

// Relative, so that it is found below a path prefix, too.
const address = new URL("openapi.json", import.meta.url);
const intro = document.getElementById("intro");
try {
  const answer = await fetch(address);
  const doc = await answer.json();
  intro.replaceChildren(...prose(doc.info.description), ` Version ${doc.info.version}. `);
  intro.append(make("a", { href: address, textContent: "OpenAPI document" }));
  const calls = document.getElementById("calls");
  for (const tag of doc.tags) {
    const found = Object.entries(doc.paths).flatMap(([path, item]) => Object.entries(item)
      .filter(([, operation]) => operation?.tags?.includes(tag.name))
      .map(([method, operation]) => call(method, path, operation, doc)));
    calls.append(make("section", {}, make("h2", { textContent: tag.name }),
      make("p", {}, ...prose(tag.description)), ...found));
  }
  document.getElementById("find").addEventListener("input", ({ target }) => {
    const word = target.value.trim().toLowerCase();
    for (const one of calls.querySelectorAll("details")) one.hidden = !one.dataset.text.includes(word);
    for (const one of calls.querySelectorAll("section")) one.hidden = !one.querySelector("details:not([hidden])");
  });
} catch (error) {
  intro.textContent = `The document could not be read: ${error.message}. Reload the page to try again.`;
}
