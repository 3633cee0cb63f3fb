// Just enough of a document to run the page's script and see what it does.
class Node {
  constructor(tag, classes = []) {
    this.tagName = tag;
    this.handlers = {};
    this.attributes = { viewBox: "0 0 1200 480" };
    this.textContent = "";
    this.classes = new Set(classes);
    this.classList = {
      add: (name) => this.classes.add(name),
      remove: (name) => this.classes.delete(name),
      contains: (name) => this.classes.has(name),
    };
    for (const [name, value] of [["x", 100], ["width", 300], ["height", 48]]) {
      this[name] = { baseVal: { value } };
    }
  }
  addEventListener(name, handler) { this.handlers[name] = handler; }
  getAttribute(name) { return this.attributes[name]; }
  setAttribute(name, value) { this.attributes[name] = value; }
}
const data = /*DATA*/;
const count = JSON.parse(data).segments.length;
const nodes = Object.fromEntries(["forest", "data", "tip", "range", "reset"].map((id) => [id, new Node(id)]));
nodes.data.textContent = data;
const segments = Array.from({ length: count }, () => new Node("rect", ["s1"]));
nodes.forest.querySelectorAll = (query) => (query === "rect.m" ? [] : segments);
nodes.forest.querySelector = () => segments.find((node) => node.classes.has("on")) ?? null;
globalThis.document = { getElementById: (id) => nodes[id] };
(0, eval)(/*SCRIPT*/);
const act = (name, event) => nodes.forest.handlers[name]({ preventDefault() {}, ...event });
const seen = {};
act("mousemove", { target: segments[0] });
seen.hovered = nodes.tip.textContent;
act("mouseleave", {});
seen.left = nodes.tip.textContent;
act("click", { target: segments[0] });
seen.zoomed = nodes.forest.attributes.viewBox;
nodes.reset.handlers.click({});
seen.reset = nodes.forest.attributes.viewBox;
act("keydown", { key: "ArrowLeft" });
seen.keyed = nodes.tip.textContent;
console.log(JSON.stringify(seen));
