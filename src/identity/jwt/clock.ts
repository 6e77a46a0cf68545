/** Time, as what waits is handed it. */
export type Clock = {
  /** Milliseconds since the epoch. */
  now(): number;
  /** Resolves after `ms`, or when the signal is aborted. Never rejects. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
};

export const systemClock: Clock = {
  now: () => Date.now(),
  sleep(ms, signal) {
    const over = Promise.withResolvers<void>();
    const timer = setTimeout(over.resolve, ms);
    const stop = () => {
      clearTimeout(timer);
      over.resolve();
    };
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
    return over.promise;
  },
};
