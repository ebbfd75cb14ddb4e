// The time, as a state that moves once a second while anybody looks.

class Clock {
  now = $state(Date.now());
  /** Whether the window can be seen: what nobody sees is not measured either. */
  visible = $state(document.visibilityState === 'visible');

  constructor() {
    setInterval(() => {
      if (this.visible) this.now = Date.now();
    }, 1000);
    document.addEventListener('visibilitychange', () => {
      this.visible = document.visibilityState === 'visible';
      if (this.visible) this.now = Date.now();
    });
  }
}

export const clock = new Clock();
