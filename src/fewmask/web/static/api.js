// Requests to the server, and its problems in words.

export class Refused extends Error {
  constructor(status, problems) {
    super(problems.map((p) => p.found).join("; "));
    this.status = status;
    this.problems = problems;
  }
}

export async function api(path, { method = "GET", body, raw, headers = {}, signal } = {}) {
  const options = { method, signal, headers: { accept: "application/json", ...headers } };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["content-type"] = "application/json";
  } else if (raw !== undefined) {
    options.body = raw;
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, [{ code: "SERVER", where: "server", found: "no answer",
      expected: "a server that runs", fix: "look at the terminal of `fewmask ui`" }]);
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const problems = found.problems ?? [{ code: `HTTP-${answer.status}`, where: path,
      found: answer.statusText, expected: "an answer", fix: "load the page anew" }];
    throw Object.assign(new Refused(answer.status, problems), { answer: found });
  }
  return found;
}

export const post = (path, body = {}) => api(path, { method: "POST", body });

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

export function problemLine(problem) {
  return element("li", {},
    element("code", {}, problem.code), " ", element("b", {}, problem.where),
    `: found ${problem.found}; expected ${problem.expected}. `,
    element("span", { className: "fix" }, problem.fix));
}

export function showProblems(error) {
  if (!(error instanceof Refused)) throw error;
  const place = document.getElementById("problems");
  const list = element("ul", {}, ...error.problems.map(problemLine));
  const close = element("button", { type: "button" }, "Close");
  close.addEventListener("click", clearProblems);
  list.prepend(element("li", {}, close));
  place.replaceChildren(list);
  place.scrollIntoView({ block: "nearest" });
}

export function clearProblems() {
  document.getElementById("problems").replaceChildren();
}

export function debounced(work, milliseconds) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), milliseconds);
  };
}
