// Who is signed in. The key is in sessionStorage: of this origin and this tab, gone with it, and never in a
// cookie, which other ports of this host would be sent as well (ADR 0072).

const KEY = "nsbox.key";
const TENANT = "nsbox.tenant";

let memory = null; // where there is no storage

function storage() {
  try {
    return window.sessionStorage;
  } catch {
    return null;
  }
}

export const session = {
  /** The answer of GET /me, where there are accounts. */
  me: null,
  /** Which of the optional parts this daemon has, and this key may use: keys, users, usage, audit. */
  parts: new Set(),

  get key() {
    return storage()?.getItem(KEY) ?? memory;
  },

  /** The user an administrator acts for, or null: `{id, name}`. */
  get tenant() {
    return JSON.parse(storage()?.getItem(TENANT) ?? "null");
  },

  set tenant(user) {
    if (user === null) storage()?.removeItem(TENANT);
    else storage()?.setItem(TENANT, JSON.stringify({ id: user.id, name: user.name }));
  },

  begin(key) {
    memory = key;
    storage()?.setItem(KEY, key);
  },

  end() {
    memory = null;
    this.me = null;
    this.parts = new Set();
    storage()?.removeItem(KEY);
    storage()?.removeItem(TENANT);
  },
};
