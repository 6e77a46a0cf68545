/** Elements, made and found. Text only ever becomes text: nothing here takes markup. */

type Child = Node | string;
type Props = {
  readonly class?: string;
  readonly title?: string;
  readonly type?: string;
  readonly id?: string;
  readonly on?: Readonly<Record<string, (event: Event) => void>>;
  readonly attributes?: Readonly<Record<string, string>>;
};

export function el<Name extends keyof HTMLElementTagNameMap>(
  name: Name,
  { class: className, on = {}, attributes = {}, ...own }: Props = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[Name] {
  const made = document.createElement(name);
  if (className !== undefined) made.className = className;
  for (const [attribute, value] of Object.entries({ ...own, ...attributes })) made.setAttribute(attribute, value);
  for (const [event, run] of Object.entries(on)) made.addEventListener(event, run);
  made.append(...children);
  return made;
}

/** Has these children in this order, and touches none that is in its place: what is selected or has the focus stays so. */
export function arrange(root: HTMLElement, children: readonly HTMLElement[]): void {
  const wanted = new Set<Element>(children);
  for (const child of [...root.children]) if (!wanted.has(child)) child.remove();
  for (const [at, child] of children.entries()) {
    if (root.children[at] !== child) root.insertBefore(child, root.children[at] ?? null);
  }
}

/** A button that does something, and submits nothing. */
export function button(label: string, run: () => void, className = "quiet"): HTMLButtonElement {
  return el("button", { class: className, type: "button", on: { click: run } }, label);
}

/** The page's own element; that it is there is the page's own business. */
export function at<T extends HTMLElement>(id: string, kind: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`The page has no ${kind.name} #${id}.`);
  return found;
}
