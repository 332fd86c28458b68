// A browser may refuse a page its storage (in a sandboxed frame, say): what the page keeps then lasts as long as the page.
"use strict";

for (const name of ["localStorage", "sessionStorage"]) {
  try {
    window[name].getItem("");
  } catch {
    const kept = new Map();
    const getItem = (key) => kept.get(key) ?? null, setItem = (key, value) => kept.set(key, String(value));
    Object.defineProperty(window, name, { value: { getItem, setItem, removeItem: (key) => kept.delete(key) } });
  }
}
