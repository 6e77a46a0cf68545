// The floor: method, headers and body go on, the answer comes back untouched. Nothing else.
export default {
  fetch(request, env) {
    const { pathname, search } = new URL(request.url);
    return fetch(new Request(env.UPSTREAM_URL + pathname + search, request));
  },
};
