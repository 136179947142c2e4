// What the pages use of Preact and htm, for `make check`; browsers never read it.
export type Ref<T> = { current: T };
export function html(parts: TemplateStringsArray, ...values: unknown[]): any;
export function render(drawn: unknown, into: Element): void;
export function useEffect(effect: () => void | (() => void), on?: unknown[]): void;
export function useLayoutEffect(effect: () => void | (() => void), on?: unknown[]): void;
export function useRef(first: null): Ref<any>;
export function useRef<T>(first: T): Ref<T>;
export function useState(first: null): [any, (next: any) => void];
export function useState<T>(first: T | (() => T)): [T, (next: T | ((before: T) => T)) => void];
