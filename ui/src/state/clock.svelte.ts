// The time, as a state that moves once a second while anybody looks.

class Clock {
  now = $state(Date.now());

  constructor() {
    setInterval(() => {
      if (document.visibilityState === 'visible') this.now = Date.now();
    }, 1000);
  }
}

export const clock = new Clock();
