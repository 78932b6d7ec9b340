// Shows /openapi.json. Everything is made with createElement and textContent: the description is data, never markup.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];
let api;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Text with `code` in backquotes.
function prose(text) {
  const parts = String(text).split("`");
  return parts.map((part, at) => (at % 2 ? make("code", {}, part) : document.createTextNode(part)));
}

function resolve(schema) {
  let found = schema ?? {};
  for (let depth = 0; found.$ref && depth < 10; depth++) {
    found = found.$ref.slice(2).split("/").reduce((at, key) => at?.[key.replaceAll("~1", "/").replaceAll("~0", "~")], api) ?? {};
  }
  return found;
}

function kinds(schema) {
  return [schema.type ?? []].flat();
}

// The one alternative that is not null, if there is just one.
function unwrap(schema) {
  const found = resolve(schema);
  const choices = (found.oneOf ?? found.anyOf ?? []).filter((choice) => choice.type !== "null");
  if (choices.length === 1) return { ...resolve(choices[0]), description: found.description ?? resolve(choices[0]).description };
  if (found.allOf?.length === 1) return { ...resolve(found.allOf[0]), description: found.description };
  return found;
}

function typeName(schema) {
  const nullable = kinds(resolve(schema)).includes("null") || (resolve(schema).oneOf ?? []).some((one) => one.type === "null");
  const found = unwrap(schema);
  const own = kinds(found).filter((kind) => kind !== "null");
  let name = own.join(" or ") || (found.enum ? "string" : found.oneOf || found.anyOf ? "one of several" : "any");
  if (own.includes("array")) name = `array of ${typeName(found.items ?? {})}`;
  if (found.format) name += ` (${found.format})`;
  if (found.const !== undefined) name = JSON.stringify(found.const);
  return nullable ? `${name}, or null` : name;
}

// "1 to 255 characters", "at most 40 items".
function range(least, most, unit) {
  const words = unit ? ` ${unit}` : "";
  if (least !== undefined && most !== undefined) return `${least} to ${most}${words}`;
  if (least !== undefined) return `at least ${least}${words}`;
  return most === undefined ? null : `at most ${most}${words}`;
}

function limits(schema) {
  const found = unwrap(schema);
  const said = [
    found.enum ? `one of ${found.enum.map((value) => JSON.stringify(value)).join(", ")}` : null,
    range(found.minimum, found.maximum, ""),
    range(found.minLength, found.maxLength, "characters"),
    range(found.minItems, found.maxItems, "items"),
    found.pattern === undefined ? null : `matches \`${found.pattern}\``,
    found.default === undefined ? null : `${JSON.stringify(found.default)} when it is not given`,
  ].filter(Boolean);
  return said.length ? `(${said.join("; ")})` : "";
}

// Rows of an object's members, nested ones indented.
function rows(schema, depth = 0, seen = []) {
  const found = unwrap(schema);
  const target = kinds(found).includes("array") ? unwrap(found.items ?? {}) : found;
  if (depth > 3 || seen.includes(target)) return [];
  const parts = target.allOf ? target.allOf.map(unwrap) : [target];
  const all = [];
  for (const part of parts) {
    for (const [name, member] of Object.entries(part.properties ?? {})) {
      const required = (part.required ?? []).includes(name);
      const about = [resolve(member).description, limits(member)].filter(Boolean).join(" ");
      all.push(make("tr", { class: depth ? `l${depth}` : undefined },
        make("td", {}, name, required ? make("span", { class: "required", title: "required" }, "required") : null),
        make("td", { class: "type" }, typeName(member)), make("td", {}, ...prose(about))));
      all.push(...rows(member, depth + 1, [...seen, target]));
    }
  }
  for (const choice of target.oneOf ?? target.anyOf ?? []) {
    if (choice.type === "null") continue;
    const title = resolve(choice).title ?? choice.$ref?.split("/").pop() ?? typeName(choice);
    all.push(make("tr", { class: depth ? `l${depth}` : undefined },
      make("td", {}, "either"), make("td", { class: "type" }, title), make("td", {}, ...prose(resolve(choice).description ?? ""))));
    all.push(...rows(choice, depth + 1, [...seen, target]));
  }
  return all;
}

function table(schema) {
  const found = rows(schema);
  if (!found.length) return make("p", { class: "note" }, typeName(schema), " ", limits(schema));
  return make("table", {}, make("thead", {}, make("tr", {}, make("th", {}, "Member"), make("th", {}, "Type"), make("th", {}, "What it is"))),
    make("tbody", {}, ...found));
}

// A value that fits; not `whole`: only with the members that are required.
function example(schema, depth = 0, whole = true) {
  const found = unwrap(schema);
  if (found.example !== undefined) return found.example;
  if (found.examples?.length) return found.examples[0];
  if (found.default !== undefined) return found.default;
  if (found.const !== undefined) return found.const;
  if (found.enum) return found.enum[0];
  if (depth > 4) return null;
  if (found.allOf) return Object.assign({}, ...found.allOf.map((part) => example(part, depth + 1, whole)));
  const choice = (found.oneOf ?? found.anyOf ?? []).find((one) => one.type !== "null");
  if (choice) return example(choice, depth + 1, whole);
  const kind = kinds(found).find((one) => one !== "null");
  if (kind === "object" || found.properties) {
    const members = Object.entries(found.properties ?? {}).filter(([name]) => whole || found.required?.includes(name));
    return Object.fromEntries(members.map(([name, member]) => [name, example(member, depth + 1, whole)]));
  }
  if (kind === "array") return [example(found.items ?? {}, depth + 1, whole)];
  if (kind === "integer" || kind === "number") return found.minimum ?? 1;
  if (kind === "boolean") return true;
  if (kind === "string") return found.format === "date-time" ? "2026-01-31T10:00:00Z" : "text";
  return null;
}

function block(text) {
  const button = make("button", { class: "copy", type: "button" }, "Copy");
  button.addEventListener("click", () => navigator.clipboard?.writeText(text).then(() => { button.textContent = "Copied"; }));
  return make("div", {}, button, make("pre", {}, make("code", {}, text)));
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function curl(method, path, operation, parameters) {
  const query = parameters.filter((one) => one.in === "query" && one.required).map((one) => `${one.name}=${encodeURIComponent(example(one.schema))}`);
  const place = path.replaceAll(/\{(\w+)\}/g, (_, name) => `$${name.toUpperCase()}`);
  const url = (api.servers?.[0]?.url ?? "") + place + (query.length ? `?${query.join("&")}` : "");
  const lines = [`curl ${method === "get" ? "" : `-X ${method.toUpperCase()} `}"${url}"`];
  if (operation.security?.length) lines.push('-H "Authorization: Bearer $TOKEN"');
  if (parameters.some((one) => one.name === "Idempotency-Key")) lines.push('-H "Idempotency-Key: $(uuidgen)"');
  const content = Object.entries(operation.requestBody?.content ?? {})[0];
  if (content) {
    lines.push(`-H "Content-Type: ${content[0]}"`);
    lines.push(content[0] === "application/json" ? `-d ${quoted(JSON.stringify(example(content[1].schema, 0, false)))}` : "--data-binary @body");
  }
  return lines.join(" \\\n  ");
}

function parameterTable(parameters) {
  const lines = parameters.map((one) => make("tr", {},
    make("td", {}, one.name, one.required ? make("span", { class: "required" }, "required") : null),
    make("td", { class: "type" }, `${one.in}, ${typeName(one.schema ?? {})}`),
    make("td", {}, ...prose([one.description, limits(one.schema ?? {})].filter(Boolean).join(" ")))));
  return make("table", {}, make("tbody", {}, ...lines));
}

function answer(status, response) {
  const found = resolve(response);
  const [type, content] = Object.entries(found.content ?? {})[0] ?? [];
  const summary = make("summary", {}, make("span", { class: "status" }, status), ...prose(found.description ?? ""));
  const headers = Object.entries(found.headers ?? {}).map(([name, header]) => `${name}: ${resolve(header).description ?? ""}`);
  const details = make("details", {}, summary);
  if (type) details.append(make("p", { class: "note" }, type));
  if (content?.schema) {
    details.append(table(content.schema));
    if (type === "application/json") details.append(block(JSON.stringify(example(content.schema), null, 2)));
  }
  if (headers.length) details.append(make("p", { class: "note text" }, headers.join("\n")));
  if (Number(status) < 300 && content?.schema) details.open = true;
  return details;
}

function article(method, path, operation) {
  const parameters = (operation.parameters ?? []).map(resolve);
  const content = Object.entries(operation.requestBody?.content ?? {})[0];
  const access = operation.security?.length ? "Needs an access token." : "Open to everyone.";
  const element = make("article", { id: operation.operationId },
    make("h3", {}, operation.summary ?? operation.operationId),
    make("p", { class: "place" }, make("span", { class: `method ${method}` }, method.toUpperCase()), ` ${path}`),
    make("p", { class: "note" }, access, " ", make("a", { href: `#${operation.operationId}` }, operation.operationId)));
  if (operation.description) element.append(make("p", { class: "text" }, ...prose(operation.description)));
  if (parameters.length) element.append(make("h4", {}, "Parameters"), parameterTable(parameters));
  if (content) {
    element.append(make("h4", {}, "Body"), make("p", { class: "note" }, content[0]));
    if (content[1].schema) {
      element.append(table(content[1].schema));
      if (content[0] === "application/json") element.append(block(JSON.stringify(example(content[1].schema), null, 2)));
    }
  }
  element.append(make("h4", {}, "With curl"), block(curl(method, path, operation, parameters)), make("h4", {}, "Answers"));
  for (const [status, response] of Object.entries(operation.responses ?? {})) element.append(answer(status, response));
  return element;
}

function show() {
  const index = document.getElementById("index");
  const content = document.getElementById("content");
  document.getElementById("title").textContent = api.info.title;
  document.getElementById("version").textContent = `${api.info.version} · OpenAPI ${api.openapi}`;
  content.replaceChildren(make("h1", {}, api.info.title), make("p", {}, api.info.summary ?? ""),
    make("p", { class: "intro" }, ...prose(api.info.description ?? "")),
    make("p", {}, "The same, for machines: ", make("a", { href: "/openapi.json" }, "/openapi.json"),
      ...(api.paths["/asyncapi.json"] ? [", and of the WebSocket ", make("a", { href: "/asyncapi.json" }, "/asyncapi.json")] : []), "."));
  const entries = [];
  const tags = [...(api.tags ?? []), { name: undefined }];
  for (const tag of tags) {
    const section = make("section", { class: "tag" }, make("h2", {}, tag.name ?? "more"), make("p", {}, tag.description ?? ""));
    const group = make("div", {}, make("h2", {}, tag.name ?? "more"));
    for (const [path, item] of Object.entries(api.paths)) {
      for (const method of METHODS.filter((one) => item[one] && item[one].tags?.[0] === tag.name)) {
        const operation = item[method];
        const link = make("a", { href: `#${operation.operationId}`, title: `${method.toUpperCase()} ${path}` },
          make("span", { class: `method ${method}` }, method.toUpperCase()), operation.summary ?? path);
        const element = article(method, path, operation);
        group.append(link);
        section.append(element);
        const text = `${method} ${path} ${operation.operationId} ${operation.summary} ${operation.description}`.toLowerCase();
        entries.push({ link, element, group, section, text });
      }
    }
    if (group.children.length > 1) {
      index.append(group);
      content.append(section);
    }
  }
  document.getElementById("search").addEventListener("input", (event) => search(entries, event.target.value));
  document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

function search(entries, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const groups = new Set(entries.map((entry) => entry.group));
  for (const entry of entries) {
    const found = words.every((word) => entry.text.includes(word));
    entry.link.hidden = !found;
    entry.element.hidden = !found;
  }
  for (const group of groups) {
    const shown = entries.some((entry) => entry.group === group && !entry.link.hidden);
    group.hidden = !shown;
    entries.find((entry) => entry.group === group).section.hidden = !shown;
  }
}

fetch("/openapi.json")
  .then((response) => (response.ok ? response.json() : Promise.reject(new Error(`the gateway answered ${response.status}`))))
  .then((description) => { api = description; show(); })
  .catch((error) => { document.getElementById("status").textContent = `The description cannot be read: ${error.message}`; });
