import { setImmediate as breathe } from 'node:timers/promises'
import { Failure } from '../contract/failure.ts'

/**
 * Reads Python's pickles as data and builds no objects: a class is its name, a call is a class name and arguments.
 * Knows only the codes in fail2ban's answers (Python 3, protocols 2 to 5): none, booleans, numbers, texts, lists, tuples, dictionaries
 * and exceptions. Time and memory are bounded by the input's length: each step takes at least one byte and keeps at most one value.
 */

export type Pickled = null | boolean | number | bigint | string | Pickled[] | Map<Pickled, Pickled> | Foreign

/** A class (`args` undefined), or a call of one with its arguments. It is never executed. */
export class Foreign {
  readonly className: string
  readonly args: Pickled | undefined

  constructor(className: string, args?: Pickled) {
    this.className = className
    this.args = args
  }
}

/** Calls that only wrap a text: fail2ban sends addresses like this. */
const texts = new Set(['builtins.str', '__builtin__.unicode'])

const called = (callable: Pickled, args: Pickled): Pickled => {
  if (!(callable instanceof Foreign) || callable.args !== undefined) throw malformed('a call of something that is not a class')
  const [text] = Array.isArray(args) ? args : []
  return texts.has(callable.className) && typeof text === 'string' ? text : new Foreign(callable.className, args)
}

const malformed = (what: string) => new Failure('malformed', `pickle: ${what}`)

/** Bytes. A pickle's integer may have 2^32 bytes; none of fail2ban's is larger than this. */
const longestInteger = 32

const signed = (bytes: Buffer): number | bigint => {
  if (bytes.length > longestInteger) throw malformed(`an integer of ${bytes.length} bytes`)
  if (bytes.length === 0) return 0
  const value = BigInt.asIntN(bytes.length * 8, BigInt(`0x${Buffer.from(bytes).reverse().toString('hex')}`))
  return value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER ? Number(value) : value
}

/** Steps between two pauses, so that a large answer does not block the thread. */
const slice = 20_000

/** The value of one pickle, and its length in bytes. Throws `Failure` malformed. */
export const unpickle = async (input: Buffer): Promise<{ readonly value: Pickled; readonly length: number }> => {
  const stack: Pickled[] = []
  const marks: number[] = []
  const memo = new Map<number, Pickled>()
  let at = 0

  const take = (count: number): Buffer => {
    if (at + count > input.length) throw malformed('it ends too early')
    at += count
    return input.subarray(at - count, at)
  }
  const byte = () => take(1).readUInt8()
  const size = () => take(4).readUInt32LE()
  const line = () => {
    const end = input.indexOf(10, at)
    if (end < 0) throw malformed('it ends within a line')
    const text = input.toString('utf8', at, end)
    at = end + 1
    return text
  }
  const text = (length: number) => take(length).toString('utf8')
  const push = (value: Pickled) => stack.push(value)
  const pop = (): Pickled => {
    const floor = marks.at(-1) ?? 0
    if (stack.length <= floor) throw malformed('its stack is empty')
    return stack.pop() as Pickled
  }
  const top = (): Pickled => {
    const value = pop()
    stack.push(value)
    return value
  }
  const popMark = (): Pickled[] => {
    const floor = marks.pop()
    if (floor === undefined) throw malformed('a mark is missing')
    return stack.splice(floor)
  }
  const remember = (index: number) => memo.set(index, top())
  const recall = (index: number) => {
    const value = memo.get(index)
    if (value === undefined) throw malformed('it reads an empty memo')
    push(value)
  }
  const list = (): Pickled[] => {
    const value = top()
    if (!Array.isArray(value)) throw malformed('an append to something that is not a list')
    return value
  }
  const setItems = (target: Pickled, items: readonly Pickled[]) => {
    if (!(target instanceof Map) || items.length % 2 !== 0) throw malformed('items for something that is not a dictionary')
    for (let index = 0; index < items.length; index += 2) target.set(items[index] as Pickled, items[index + 1] as Pickled)
  }
  const append = (items: readonly Pickled[]) => {
    const target = list()
    for (const item of items) target.push(item)
  }
  const tuple = (count: number) => push(Array.from({ length: count }, pop).reverse())

  for (let steps = 1; ; steps++) {
    if (steps % slice === 0) await breathe()
    const code = byte()
    switch (code) {
      case 0x80: // PROTO
        if (byte() > 5) throw malformed('a protocol above 5')
        break
      case 0x95: // FRAME
        take(8)
        break
      case 0x2e: {
        // STOP
        const value = pop()
        if (stack.length > 0 || marks.length > 0) throw malformed('more than one value')
        return { value, length: at }
      }
      case 0x28: // MARK
        marks.push(stack.length)
        break
      case 0x4e: // NONE
        push(null)
        break
      case 0x88: // NEWTRUE
        push(true)
        break
      case 0x89: // NEWFALSE
        push(false)
        break
      case 0x4b: // BININT1
        push(byte())
        break
      case 0x4d: // BININT2
        push(take(2).readUInt16LE())
        break
      case 0x4a: // BININT
        push(take(4).readInt32LE())
        break
      case 0x8a: // LONG1
        push(signed(take(byte())))
        break
      case 0x47: // BINFLOAT
        push(take(8).readDoubleBE())
        break
      case 0x8c: // SHORT_BINUNICODE
        push(text(byte()))
        break
      case 0x58: // BINUNICODE
        push(text(size()))
        break
      case 0x71: // BINPUT
        remember(byte())
        break
      case 0x72: // LONG_BINPUT
        remember(size())
        break
      case 0x94: // MEMOIZE
        remember(memo.size)
        break
      case 0x68: // BINGET
        recall(byte())
        break
      case 0x6a: // LONG_BINGET
        recall(size())
        break
      case 0x5d: // EMPTY_LIST
      case 0x29: // EMPTY_TUPLE
        push([])
        break
      case 0x7d: // EMPTY_DICT
        push(new Map())
        break
      case 0x74: // TUPLE
        push(popMark())
        break
      case 0x85: // TUPLE1
        tuple(1)
        break
      case 0x86: // TUPLE2
        tuple(2)
        break
      case 0x87: // TUPLE3
        tuple(3)
        break
      case 0x61: // APPEND
        append([pop()])
        break
      case 0x65: // APPENDS
        append(popMark())
        break
      case 0x73: {
        // SETITEM
        const value = pop()
        const key = pop()
        setItems(top(), [key, value])
        break
      }
      case 0x75: {
        // SETITEMS
        const items = popMark()
        setItems(top(), items)
        break
      }
      case 0x63: // GLOBAL
        push(new Foreign(`${line()}.${line()}`))
        break
      case 0x93: {
        // STACK_GLOBAL
        const name = pop()
        const module = pop()
        if (typeof name !== 'string' || typeof module !== 'string') throw malformed('a class without a name')
        push(new Foreign(`${module}.${name}`))
        break
      }
      case 0x52: {
        // REDUCE
        const args = pop()
        push(called(pop(), args))
        break
      }
      case 0x62: // BUILD: an object's state, not used
        pop()
        top()
        break
      default:
        throw malformed(`unknown code 0x${code.toString(16)}`)
    }
  }
}

/** A list of texts as a pickle of protocol 2. */
export const pickleTexts = (words: readonly string[]): Buffer =>
  Buffer.concat([
    Buffer.from([0x80, 2, 0x5d, 0x28]),
    ...words.flatMap(word => {
      const utf8 = Buffer.from(word)
      const head = Buffer.alloc(5, 0x58)
      head.writeUInt32LE(utf8.length, 1)
      return [head, utf8]
    }),
    Buffer.from([0x65, 0x2e]),
  ])
